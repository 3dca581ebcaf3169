#!/usr/bin/python3
"""readme-blocks.py README.md SECTION FOLDER: the section's blocks of commands,
as FOLDER/1, FOLDER/2, ..., word by word.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import re
import sys

readme, section, folder = sys.argv[1:]
with open(readme, encoding="utf-8") as f:
    text = f.read()
body = re.search(r"^## %s\n(.*?)(?=^## |\Z)" % re.escape(section), text,
                 re.M | re.S).group(1)
blocks = re.findall(r"(?:^    \S.*\n)+", body, re.M)
os.mkdir(folder)
for number, block in enumerate(blocks, 1):
    with open(os.path.join(folder, str(number)), "w", encoding="utf-8") as f:
        f.write(re.sub(r"^    ", "", block, flags=re.M))
print(len(blocks))
