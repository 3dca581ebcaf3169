What is wrong with a message is said, and nothing is done.

  $ . "$TESTDIR/setup.sh"
  $ need jq socat
  $ nbdkit -U disk.sock -P disk.pid backfill control=control disk.img size=1M
  $ talk () { printf '%s' "$@" | socat -t 60 - UNIX-CONNECT:control | tr -d '\r'; }
  $ try () {
  >   talk '{"execute": "qmp_capabilities"}' "$@" | tail -n +3 |
  >     jq -r '.error // . | if .class then .class + ": " + .desc else . end'
  > }

Unknown commands and arguments, missing ones, wrong types and values:

  $ try '{"execute": "frob"}'
  CommandNotFound: The command frob has not been found
  $ try '{"execute": "query-disks", "arguments": {"disk": ""}}'
  GenericError: QMP input member 'disk' is unexpected
  $ try '{"execute": "block-job-pause"}'
  GenericError: Parameter 'device' is missing
  $ try '{"execute": "block-job-set-speed", "arguments": {"device": ""}}'
  GenericError: Parameter 'speed' is missing
  $ try '{"execute": "query-disks", "arguments": {"device": 7}}'
  GenericError: Invalid parameter type for 'device', expected: string
  $ try '{"execute": "block-allocate", "arguments": {"offset": "1M"}}'
  GenericError: Invalid parameter type for 'offset', expected: integer
  $ try '{"execute": "block-allocate", "arguments": {"offset": 1.5}}'
  GenericError: Invalid parameter type for 'offset', expected: integer
  $ try '{"execute": "block-allocate", "arguments": {"offset": -1}}'
  GenericError: Parameter 'offset' expects a non-negative integer
  $ try '{"execute": "block-allocate", "arguments": {"sparse": "no"}}'
  GenericError: Invalid parameter type for 'sparse', expected: boolean
  $ try '{"execute": "block-allocate", "arguments": {"on-error": "stop"}}'
  GenericError: Parameter 'on-error' does not accept value 'stop': use 'report' or 'skip'
  $ try '{"execute": "query-allocation-map", "arguments": {"max-regions": 0}}'
  GenericError: Parameter 'max-regions' expects a value between 1 and 100000

Ranges that are not within the disk:

  $ try '{"execute": "block-allocate", "arguments": {"offset": 1048577}}'
  GenericError: offset 1048577 is past the end of disk '', which has 1048576 bytes
  $ try '{"execute": "block-allocate", "arguments": {"offset": 1, "length": 1048576}}'
  GenericError: the range 1+1048576 is not within disk '', which has 1048576 bytes
  $ try '{"execute": "query-allocation-map", "arguments": {"offset": 1048577}}'
  GenericError: Offset 1048577 is past the end of disk '', which has 1048576 bytes

Messages that are none:

  $ try '{"execute": 7}'
  GenericError: QMP input member 'execute' must be a string
  $ try '{"foo": 1}'
  GenericError: QMP input member 'foo' is unexpected
  $ try '{}'
  GenericError: QMP input lacks member 'execute'
  $ try '{"execute": "query-disks", "arguments": []}'
  GenericError: QMP input member 'arguments' must be an object
  $ try '[]'
  GenericError: QMP input must be a JSON object
  $ try '{"execute": "query-disks", "execute": "quit"}'
  GenericError: JSON parse error: duplicate object key near '"execute"'
  $ try '{execute: 1}'
  GenericError: JSON parse error: * (glob)

After what is not JSON at all, the server goes on with the next line:

  $ try 'hello
  > {"execute": "query-total-speed"}'
  GenericError: JSON parse error: a message is a JSON object
  {
    "return": {
      "speed": 0
    }
  }

Byte 0xFF gets a client in step again after half a message:

  $ { printf '{"execute": "qmp_capabilities"}{"execute": "query-total-'
  >   printf '\377{"execute": "query-total-speed"}'; } |
  >   socat -t 60 - UNIX-CONNECT:control | tail -n 1 | tr -d '\r'
  {"return": {"speed": 0}}

Too long, too deep:

  $ try "{\"execute\": \"$(head -c 2M /dev/zero | tr '\0' x)\"}"
  GenericError: * (glob)
  $ try "{\"execute\": $(head -c 100 /dev/zero | tr '\0' '[')"
  GenericError: * (glob)
  $ try "{\"execute\": \"query-disks\", \"id\": \"$(head -c 100K /dev/zero | tr '\0' x)\"}"
  GenericError: QMP input member 'id' is longer than 65536 bytes

Nothing came of it:

  $ backfill info | grep ^job
  job          none
