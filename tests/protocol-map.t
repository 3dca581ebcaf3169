query-allocation-map: the allocation map, in pages if it is long.

  $ . "$TESTDIR/setup.sh"
  $ need jq socat nbdsh
  $ nbdkit -U disk.sock -P disk.pid backfill control=control disk.img size=100M
  $ nbdsh -u "$disk" -c 'for i in range(5000): h.zero(4096, i * 8192)' \
  >   -c 'h.pwrite(b"x" * 4096, 90000 * 1024)'
  $ map () { # ARGUMENTS: what is returned, or the error's text
  >   printf '%s' '{"execute": "qmp_capabilities"}' \
  >     '{"execute": "query-allocation-map", "id": 1, "arguments": {'"$1"'}}' |
  >     socat -t 60 - UNIX-CONNECT:control | jq -c 'select(.id == 1) | .return // .error.desc'
  > }

It lists the local regions; with states all of them.  The disk's size and granule
are there too.

  $ map '"offset": 92000000' | jq -c
  {"regions":[{"offset":92160000,"length":4096}],"size":104857600,"granule":4096}
  $ map '"offset": 92000000, "states": true' | jq -c '.regions[]'
  {"offset":92000000,"length":160000,"state":"absent"}
  {"offset":92160000,"length":4096,"state":"local"}
  {"offset":92164096,"length":12693504,"state":"absent"}
  $ map '"offset": 4000, "length": 200, "states": true' | jq -c '.regions[]'
  {"offset":4000,"length":96,"state":"zero"}
  {"offset":4096,"length":104,"state":"absent"}

Of a long map a page is given, of 1000 regions unless max-regions says otherwise,
and next: where to ask for the rest.

  $ map '' | jq -c '[(.regions | length), .next]'
  [1000,8192000]
  $ map '"max-regions": 4000' | jq -c '[(.regions | length), .next]'
  [4000,32768000]
  $ map '"max-regions": 2' | jq -c
  {"regions":[{"offset":0,"length":4096},{"offset":8192,"length":4096}],"size":104857600,"granule":4096,"next":16384}
  $ map '"max-regions": 3, "offset": 40947712' | jq -c
  {"regions":[{"offset":40951808,"length":4096},{"offset":92160000,"length":4096}],"size":104857600,"granule":4096}

Page by page, as the manual has it, nothing is left out:

  $ offset=0
  $ while [ "$offset" != null ]; do
  >   map '"offset": '"$offset" > page
  >   jq -c '.regions[]' page
  >   offset=$(jq .next page)
  > done > all
  $ wc -l < all
  5001
  $ jq -s 'map(.offset) == [range(5000) * 8192] + [92160000]' all
  true

Of nothing, and past the end:

  $ map '"offset": 104857600' | jq -c .regions
  []
  $ map '"offset": 104857601'
  "Offset 104857601 is past the end of disk '', which has 104857600 bytes"
  $ map '"offset": 104857599, "length": 2'
  "The range 104857599+2 is not within disk '', which has 104857600 bytes"
