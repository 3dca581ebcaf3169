/* image.c - see image.h.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include "config.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "image.h"

static const struct {
  const char *format;
  size_t offset, len;
  const char *magic;
} formats[] = {
  { "qcow2", 0, 4, "QFI\xfb" },
  { "vmdk", 0, 4, "KDMV" },
  { "vmdk", 0, 4, "COWD" },
  { "vmdk", 0, 21, "# Disk DescriptorFile" },
  { "vhdx", 0, 8, "vhdxfile" },
  { "vpc", 0, 8, "conectix" },
  { "vdi", 64, 4, "\x7f\x10\xda\xbe" },
  { "qed", 0, 4, "QED\0" },
  { "luks", 0, 6, "LUKS\xba\xbe" },
};

const char *
image_format (const void *head, size_t len)
{
  for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
    if (formats[i].offset + formats[i].len <= len
        && memcmp ((const char *)head + formats[i].offset, formats[i].magic,
                   formats[i].len)
               == 0)
      return formats[i].format;
  return NULL;
}

const char *
image_format_of (const char *path)
{
  /* A fifo would be waited for. */
  CLEANUP_CLOSE int fd = open (path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  char head[IMAGE_HEAD];
  ssize_t n = fd == -1 ? -1 : pread (fd, head, sizeof head, 0);

  return n > 0 ? image_format (head, (size_t)n) : NULL;
}
