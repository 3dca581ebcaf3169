The control protocol, spoken by socat: QMP's framing, one JSON object after the
other.

  $ . "$TESTDIR/setup.sh"
  $ need jq socat
  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill control=control \
  >   name=vda store=a.img backing="$golden" name=vdb store=b.img size=1M

talk sends what it is given, and waits for the answers to it:

  $ talk () { printf "$@" | socat -t 60 - UNIX-CONNECT:control | tr -d '\r'; }

The server speaks first.  Then the negotiation has to be ended; until then
everything else fails.

  $ talk '' | jq -c '.QMP | .capabilities, (.version | keys)'
  []
  ["backfill","package","qemu"]
  $ talk '{"execute": "query-disks"}\n' | tail -n 1
  {"error": {"class": "CommandNotFound", "desc": "Expecting capabilities negotiation with 'qmp_capabilities'"}}
  $ talk '{"execute": "qmp_capabilities"}\n{"execute": "query-version"}\n' | tail -n +2 | jq -c
  {"return":{}}
  {"return":{"qemu":{"major":7,"minor":2,"micro":0},"package":"backfill *","backfill":{"major":*,"minor":*,"micro":*}}} (glob)
  $ ask () { # MESSAGE...: the answers to these, after the negotiation
  >   talk '%s\n' '{"execute": "qmp_capabilities"}' "$@" | tail -n +3
  > }
  $ ask '{"execute": "qmp_capabilities"}'
  {"error": {"class": "CommandNotFound", "desc": "Capabilities negotiation is already complete, command ignored"}}
  $ talk '{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}' | tail -n 1
  {"error": {"class": "GenericError", "desc": "Parameter 'enable': capability 'oob' is not offered", "errno": 22, "errno-name": "EINVAL"}}

Each answer is one line that ends in CR LF.

  $ printf '{"execute": "qmp_capabilities"}' | socat -t 60 - UNIX-CONNECT:control | od -An -c | tail -n 1
  *\r  \n (glob)

A message ends with its last brace: no newline is needed, nor anything else
between two of them.

  $ talk '{"execute":"qmp_capabilities"}{"execute":"query-total-speed"}{"execute":\n"query-total-speed"}' | tail -n 2
  {"return": {"speed": 0}}
  {"return": {"speed": 0}}

An id comes back, whatever it is.

  $ ask '{"execute": "query-total-speed", "id": {"a": [1, null, "\u00e9"]}}' '{"execute": "frob", "id": 7}'
  {"return": {"speed": 0}, "id": {"a": [1, null, "\u00E9"]}}
  {"error": {"class": "CommandNotFound", "desc": "The command frob has not been found"}, "id": 7}

A disk is named by device: its name, or the path of its store.  The path is
absolute, as the server is in another folder.

  $ ask '{"execute": "query-disks", "arguments": {"device": "vda"}}' | jq -c '.return[] | .name'
  "vda"
  $ ask '{"execute": "query-disks", "arguments": {"device": "'$PWD/b.img'"}}' | jq -c '.return[] | .name'
  "vdb"
  $ ask '{"execute": "query-disks"}' | jq -c '.return[] | .name'
  "vda"
  "vdb"
  $ ask '{"execute": "query-disks", "arguments": {"device": "vdc"}}'
  {"error": {"class": "DeviceNotFound", "desc": "No disk has the name or the store 'vdc': there are 'vda', 'vdb'", "errno": 2, "errno-name": "ENOENT"}}
  $ ask '{"execute": "disk-flush"}'
  {"error": {"class": "GenericError", "desc": "Parameter 'device' is missing: there are the disks 'vda', 'vdb'", "errno": 22, "errno-name": "EINVAL"}}

A job, from its start to its dismissal:

  $ ask '{"execute": "block-allocate", "arguments": {"device": "vda", "speed": 16384}}' \
  >   '{"execute": "block-allocate", "arguments": {"device": "vda"}}' \
  >   '{"execute": "block-job-set-speed", "arguments": {"device": "vda", "speed": 32768}}' \
  >   '{"execute": "block-job-pause", "arguments": {"device": "vda"}}' \
  >   '{"execute": "block-job-pause", "arguments": {"device": "vda"}}' \
  >   '{"execute": "block-job-dismiss", "arguments": {"device": "vda"}}' \
  >   '{"execute": "disk-detach", "arguments": {"device": "vda"}}' \
  >   '{"execute": "query-block-jobs"}' \
  >   '{"execute": "block-job-resume", "arguments": {"device": "vda"}}' \
  >   '{"execute": "block-job-cancel", "arguments": {"device": "vda", "force": true}}' \
  >   '{"execute": "block-job-cancel", "arguments": {"device": "vda"}}' \
  >   '{"execute": "query-block-jobs", "arguments": {"device": "vda"}}' \
  >   '{"execute": "block-job-dismiss", "arguments": {"device": "vda"}}' \
  >   '{"execute": "query-block-jobs"}' | jq -c 'select(.event | not) |
  >     (.return | arrays | map([.device, .status, .result, .speed])), (.return | objects),
  >     (.error | objects | [.class, .["errno-name"]])'
  {"number":1}
  ["GenericError","EBUSY"]
  {}
  {}
  ["GenericError","EALREADY"]
  ["GenericError","EBUSY"]
  ["GenericError","EBUSY"]
  [["vda","paused","none",32768]]
  {}
  {}
  ["DeviceNotActive","ESRCH"]
  [["vda","concluded","cancelled",32768]]
  {}
  []

The rest:

  $ ask '{"execute": "disk-flush", "arguments": {"device": "vdb"}}' \
  >   '{"execute": "set-total-speed", "arguments": {"speed": 1000}}' \
  >   '{"execute": "query-total-speed"}' \
  >   '{"execute": "block-allocate", "arguments": {"device": "vdb", "sparse": false, "on-error": "skip", "retry": 5, "offset": 1, "length": 1}}' \
  >   | grep -v '"event"'
  {"return": {}}
  {"return": {}}
  {"return": {"speed": 1000}}
  {"return": {"number": 1}}

quit ends the server after it was answered.

  $ wait_for test -s disk.pid
  $ pid=$(cat disk.pid)
  $ ask '{"execute": "quit", "id": "bye"}'
  {"return": {}, "id": "bye"}
  $ wait_for ended $pid
  $ rm disk.pid
