A map with more regions than fit in one message is fetched in pages.

  $ . "$TESTDIR/setup.sh"
  $ need jq nbdsh
  $ nbdkit -U disk.sock -P disk.pid backfill disk.img size=100M
  $ nbdsh -u "$disk" -c 'for i in range(10000): h.zero(4096, i * 8192)'
  $ backfill map --json > map
  $ jq length map
  20000
  $ jq -c '[.[0], .[1], .[19998], .[19999]] | .[]' map
  {"offset":0,"length":4096,"state":"zero"}
  {"offset":4096,"length":4096,"state":"absent"}
  {"offset":81911808,"length":4096,"state":"zero"}
  {"offset":81915904,"length":22941696,"state":"absent"}

Each region begins where the one before ended:

  $ jq 'reduce .[] as $r (0; if $r.offset == . then . + $r.length else error("gap") end)' map
  104857600
  $ backfill map | wc -l
  20005
