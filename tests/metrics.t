All disks in numbers, for monitoring.

  $ . "$TESTDIR/setup.sh"
  $ need jq python3

A host without a server has no disks, and that is no failure:

  $ backfill metrics | grep -v '^#'
  backfill_disks 0
  $ backfill -c nowhere metrics
  backfill: control socket 'nowhere': No such file or directory
  [1]

  $ make_golden
  $ serve_golden
  $ nbdkit -U disk.sock -P disk.pid backfill \
  >   name='a"\b' store='a b.img' backing="$golden" \
  >   name=vdb store=b.img backing="$golden"
  $ wait_until_connected
  $ backfill allocate --wait --quiet 'a"\b' --length 1M
  $ backfill allocate vdb --speed 64k --quiet

  $ backfill metrics > open
  $ sed -n "s|$here|DIR|; s|,store=\"DIR/[a-z ]*.img\"||; /^backfill_[djs].*\(_up\|_local\|_size\|_number\|state=\"[clr]\)/p" open |
  >   grep -v 'local_bytes{disk="vdb"'
  backfill_disk_up{disk="a\"\\b"} 1
  backfill_disk_up{disk="vdb"} 1
  backfill_disk_size_bytes{disk="a\"\\b"} 16777216
  backfill_disk_size_bytes{disk="vdb"} 16777216
  backfill_disk_local_bytes{disk="a\"\\b"} 1048576
  backfill_source_state{disk="a\"\\b",state="connected"} 1
  backfill_source_state{disk="a\"\\b",state="lost"} 0
  backfill_source_state{disk="vdb",state="connected"} 1
  backfill_source_state{disk="vdb",state="lost"} 0
  backfill_job_state{disk="a\"\\b",state="created"} 0
  backfill_job_state{disk="a\"\\b",state="running"} 0
  backfill_job_state{disk="a\"\\b",state="completed"} 1
  backfill_job_state{disk="a\"\\b",state="cancelled"} 0
  backfill_job_state{disk="vdb",state="created"} 0
  backfill_job_state{disk="vdb",state="running"} 1
  backfill_job_state{disk="vdb",state="completed"} 0
  backfill_job_state{disk="vdb",state="cancelled"} 0
  backfill_job_number{disk="a\"\\b"} 1
  backfill_job_number{disk="vdb"} 1

The numbers are those that info has, in a text that a parser of OpenMetrics takes.
The other format is in the file, which is there at once.  (It has the names of
counters as their samples have them, and no units.)

  $ umask 077
  $ backfill metrics --textfile disks.prom
  $ stat -c %a disks.prom
  644
  $ ls *.prom*
  disks.prom
  $ grep -cE '^# (UNIT|EOF)' disks.prom
  0
  [1]
  $ backfill info 'a"\b' --json > info.json
  $ cat > parse.py <<'END'
  > import json, os, sys
  > try:
  >     from prometheus_client.openmetrics.parser import text_string_to_metric_families as opened
  >     from prometheus_client.parser import text_string_to_metric_families as text
  > except ImportError:
  >     sys.exit(80)
  > def samples(parse, path):
  >     return {(s.name, tuple(sorted(s.labels.items()))): s.value
  >             for family in parse(open(path).read()) for s in family.samples}
  > a, b = samples(opened, "open"), samples(text, "disks.prom")
  > assert len(a) > 60, len(a)
  > # A job that runs may know how long it will take by now.
  > for name, labels in set(a) ^ set(b):
  >     assert name == "backfill_job_remaining_seconds", name
  > info = json.load(open("info.json"))
  > def value(name, **labels):
  >     labels.update(disk='a"\\b', store=os.getcwd() + "/a b.img")
  >     return b[name, tuple(sorted(labels.items()))]
  > stats, job = info["stats"], info["job"]
  > for name, number in (
  >         ("disk_local_bytes", info["local"]), ("disk_absent_bytes", info["absent"]),
  >         ("disk_complete", info["complete"]), ("disk_damaged_sectors", 0),
  >         ("fetched_bytes_total", stats["bytes-fetched"]),
  >         ("guest_reads_total", stats["guest-reads"]), ("commits_total", stats["commits"]),
  >         ("job_read_bytes", job["bytes-read"]), ("job_range_bytes", job["total"]),
  >         ("job_processed_bytes", job["processed"]),
  >         ("job_elapsed_seconds", job["time-elapsed"] / 1000)):
  >     assert value("backfill_" + name) == number, (name, number)
  > assert value("backfill_fetches_total", kind="background") == stats["background-fetches"]
  > print("good")
  > END
  $ /usr/bin/python3 parse.py < /dev/null
  good
  $ ! command -v promtool > /dev/null || promtool check metrics < disks.prom 2> said || cat said

A disk whose server does not answer is told as such:

  $ kill -STOP $(cat disk.pid)
  $ backfill metrics > open 2> said
  [4]
  $ kill -CONT $(cat disk.pid)
  $ sed -n "s|$here|DIR|; /^backfill_disk_up/p" open
  backfill_disk_up{disk="a\"\\b",store="DIR/a b.img"} 0
  backfill_disk_up{disk="vdb",store="DIR/b.img"} 0
  $ grep -c '^[^#]' open
  3

A lost backing store, and what is wrong usage:

  $ backfill abort vdb > /dev/null
  $ crash golden
  $ wait_for sh -c 'backfill metrics | grep -q "vdb.*state=\"lost\"} 1"'
  $ backfill metrics vdb 2>&1 | head -n 1
  backfill: 'metrics' is about all disks and takes no DISK
  $ backfill metrics --textfile nowhere/x.prom
  backfill: 'nowhere/x.prom' cannot be written: No such file or directory
  [1]
  $ mkdir busy.prom
  $ backfill metrics --textfile busy.prom
  backfill: 'busy.prom' cannot be written: Is a directory
  [1]
  $ ls -d busy*
  busy.prom

The manual names each metric:

  $ sed -n 's/^# TYPE \([a-z_]*\) .*/\1/p' disks.prom | while read -r name; do
  >   grep -q "\b$name\b" "$TOP_SRCDIR/docs/backfill.pod" || echo "no $name"
  > done

and what contrib/ asks for is there:

  $ contrib=$TOP_SRCDIR/contrib
  $ jq -r '.. | .expr? // empty' "$contrib/grafana/backfill.json" > exprs
  $ sed -n 's/^ *expr: //p' "$contrib/prometheus/backfill.rules.yml" >> exprs
  $ grep -oE 'backfill_[a-z_]+' exprs | sort -u > asked
  $ wc -l < asked
  18
  $ sed -n 's/^# TYPE \([a-z_]*\) .*/\1/p' disks.prom | sort | comm -13 - asked
  $ ! command -v promtool > /dev/null ||
  >   promtool check rules "$contrib/prometheus/backfill.rules.yml" > said 2>&1 || cat said
