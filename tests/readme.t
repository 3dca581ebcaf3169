What README.md and HACKING.md tell people to type is there.

  $ command -v python3 >/dev/null || exit 80
  $ backfill --list-commands > commands
  $ nbdkit --dump-plugin backfill | sed -n 's/^backfill_keys=//p' | tr ' ' '\n' > keys
  $ cat > look.py <<'END'
  > import os, re, sys
  > top = os.environ["TOP_SRCDIR"]
  > commands = open("commands").read().split() + ["help"]
  > keys = open("keys").read().split()
  > targets = {"check", "install", "check-TESTS"}
  > for folder, _, files in os.walk(os.path.join(top, "tests")):
  >     if "Makefile.am" in files:
  >         text = open(os.path.join(folder, "Makefile.am")).read()
  >         targets |= set(re.findall(r"^([a-z-]+):", text, re.M))
  > 
  > def there(path):
  >     return os.path.exists(os.path.join(top, path))
  > 
  > def look(line):
  >     for script in re.findall(r"scripts/\w+", line):
  >         yield there(script), script
  >     for command in re.findall(r"(?:^|\./run )backfill (\w+)", line):
  >         yield command in commands, "backfill " + command
  >     for key in re.findall(r" ([a-z-]+)=", line.split(" backfill ", 1)[1]) \
  >             if "nbdkit" in line and " backfill " in line else []:
  >         yield key in keys, key + "="
  >     m = re.match(r"(?:[A-Z]+=\w+ )*make (?:-C (\S+) )?([a-z-]\S*)?", line)
  >     if m:
  >         yield m.group(2) is None or m.group(2) in targets, "make " + str(m.group(2))
  >         for test in re.findall(r"TESTS=(\S+)", line):
  >             yield there(f"{m.group(1)}/{test}") or there(f"{m.group(1)}/{test}.c"), test
  > 
  > for page in "README.md", "HACKING.md":
  >     text = open(os.path.join(top, page)).read()
  >     checked = 0
  >     for line in re.findall(r"^    (\S.*)", text, re.M):
  >         for good, what in look(line.split("   #")[0]):
  >             checked += 1
  >             if not good:
  >                 print(f"{page}: {what}: {line}")
  >     for link in re.findall(r"\]\(([^)#:]+)\)", text):
  >         checked += 1
  >         if not there(link):
  >             print(f"{page}: no {link}")
  >     assert checked > 10, (page, checked)
  > END
  $ python3 look.py </dev/null

docs/promises.md names tests that are there:

  $ grep -oE '(crash|fault|fuzz|interop|unit|daemon)/[a-z0-9-]+(\.[a-z]+)?' \
  >   "$TOP_SRCDIR/docs/promises.md" | sort -u > named
  $ test -s named
  $ while read -r name; do
  >   test -e "$TOP_SRCDIR/tests/$name" || test -e "$TOP_SRCDIR/tests/$name.c" || echo "no $name"
  > done < named
