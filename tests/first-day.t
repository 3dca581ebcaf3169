What docs/first-day.md tells a newcomer to type works, word by word.

  $ . "$TESTDIR/setup.sh"
  $ need python3 qemu-img
  $ cat > blocks.py <<'END'
  > import os, re, sys
  > text = open(os.environ["TOP_SRCDIR"] + "/docs/first-day.md").read()
  > # In this test's folder.
  > text = text.replace("/tmp/first-day", os.getcwd() + "/first-day")
  > number = 0
  > for section in re.split(r"^## ", text, flags=re.M):
  >     title = section.split("\n")[0]
  >     for block in re.findall(r"(?:^    (?! ).*\n)+", re.sub(r"```.*?```", "", section, flags=re.S), re.M):
  >         number += 1
  >         open("block%02d" % number, "w").write(re.sub(r"^    ", "", block, flags=re.M))
  > print(number, "blocks")
  > END
  $ python3 blocks.py < /dev/null
  10 blocks
  $ make_golden
  $ mkdir first-day
  $ qemu-img convert -O qcow2 golden.img first-day/debian.qcow2

  $ set -e
  $ . ./block01
  $ . ../block02
  $ . ../block03
  $ wait_for test -S golden.sock
  $ sed '$d' ../block04 > ../serve
  $ . ../serve
  $ wait_for backfill list
  $ for block in 04.list 05 06 07 08 09 10; do
  >   case $block in
  >     04.list) tail -n 1 ../block04 > ../run ;;
  >     10) wait_for test ! -e vm1.img.backfill; cp ../block10 ../run; wait_for . ../run ;;
  >     *) cp ../block$block ../run ;;
  >   esac
  >   echo "== $(head -n 1 ../run)"
  >   . ../run > ../out 2>&1 || cat ../out
  > done
  == backfill list
  == qemu-img info 'nbd+unix:///vm1?socket=vm1.sock'
  == backfill list
  == backfill allocate vm1 --speed 1M
  == backfill allocate vm1 --wait
  == backfill detach vm1
  == qemu-img compare golden.img vm1.img
  $ cat ../out
  Images are identical.
  $ test -s vm1.svg
  $ ls
  debian.qcow2
  golden.img
  golden.sock
  vm1.img
  vm1.sock
  vm1.svg
  $ set +e

Its messages are the programs' own:

  $ cat > messages.py <<'END'
  > import glob, os, re
  > top = os.environ["TOP_SRCDIR"]
  > source = "".join(open(f).read() for d in ("common", "server", "lib", "plugin", "cli")
  >                  for f in glob.glob(top + "/" + d + "/**/*.c", recursive=True))
  > source = re.sub(r'"\s*"', "", source)
  > text = open(top + "/docs/first-day.md").read()
  > table = text.split("| message |")[1].split("\n\n")[0]
  > messages = re.findall(r"^\| `(.*?)` \|", table, re.M)
  > assert len(messages) > 8, messages
  > for message in messages:
  >     pieces = [re.escape(p) for p in message.split("…")]
  >     if message != "Address already in use" and \
  >             not re.search("%[a-z0-9%]+".join(pieces), source):
  >         print(message)
  > END
  $ python3 messages.py < /dev/null

and its commands and keys are there:

  $ backfill --list-commands > commands
  $ grep -oE '`backfill [a-z]+' "$TOP_SRCDIR/docs/first-day.md" | sed 's/.* //' | sort -u |
  >   grep -vxFf commands
  [1]
  $ nbdkit --dump-plugin backfill | sed -n 's/^backfill_keys=//p' | tr ' ' '\n' > keys
  $ grep -oE '\b(adopt|allocate|backing|discard-unflushed|name|runtime-dir|store|[a-z-]+)=(yes|on|local|nbd)' \
  >   "$TOP_SRCDIR/docs/first-day.md" | sed 's/=.*//' | sort -u | grep -vxFf keys
  driver
