/* oddfs.c - a folder, seen through a file system that lacks things.
 *
 *   oddfs OPTIONS FOLDER MOUNTPOINT
 *
 *   w  writes go to the kernel's page cache: dirty pages look like holes
 *   f  no fallocate: EOPNOTSUPP       i  no fallocate: EINVAL
 *   l  no hard links                  r  no renames with flags
 *   s  nothing tells holes            n  fallocate does nothing, and says 0
 *   e  fallocate leaves the edges of a block as they are
 *   -  as it is
 *
 * A flat pass-through in the foreground, for tests of what a store's file
 * system cannot do.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#define FUSE_USE_VERSION 31
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 4096

static int base;
static const char *options;

static int
has (char c)
{
  return strchr (options, c) != NULL;
}

static int
result (long r)
{
  return r == -1 ? -errno : (int)r;
}

/* Relative to the base; "" is the base itself, as ".". */
static const char *
below (const char *path)
{
  return path[1] ? path + 1 : ".";
}

static void *
odd_init (struct fuse_conn_info *conn, struct fuse_config *config)
{
  if (has ('w')) {
    if (!(conn->capable & FUSE_CAP_WRITEBACK_CACHE)) {
      fprintf (stderr, "oddfs: the kernel has no write-back cache\n");
      exit (77);
    }
    conn->want |= FUSE_CAP_WRITEBACK_CACHE;
  }
  config->use_ino = 1;
  config->kernel_cache = 1;
  return NULL;
}

static int
odd_getattr (const char *path, struct stat *sb, struct fuse_file_info *fi)
{
  return result (fi ? fstat ((int)fi->fh, sb)
                    : fstatat (base, below (path), sb, AT_SYMLINK_NOFOLLOW));
}

static int
opened (struct fuse_file_info *fi, int fd)
{
  if (fd == -1)
    return -errno;
  fi->fh = (uint64_t)fd;
  return 0;
}

/* A write-back cache reads what it changes parts of. */
static int
open_flags (int flags)
{
  if (has ('w') && (flags & O_ACCMODE) == O_WRONLY)
    flags = (flags & ~O_ACCMODE) | O_RDWR;
  return flags & ~O_APPEND;
}

static int
odd_open (const char *path, struct fuse_file_info *fi)
{
  return opened (fi, openat (base, below (path), open_flags (fi->flags)));
}

static int
odd_create (const char *path, mode_t mode, struct fuse_file_info *fi)
{
  return opened (
      fi, openat (base, below (path), open_flags (fi->flags) | O_CREAT, mode));
}

static int
odd_read (const char *path, char *buf, size_t size, off_t offset,
          struct fuse_file_info *fi)
{
  (void)path;
  return result (pread ((int)fi->fh, buf, size, offset));
}

static int
odd_write (const char *path, const char *buf, size_t size, off_t offset,
           struct fuse_file_info *fi)
{
  (void)path;
  return result (pwrite ((int)fi->fh, buf, size, offset));
}

static int
odd_truncate (const char *path, off_t size, struct fuse_file_info *fi)
{
  int fd, r;

  if (fi)
    return result (ftruncate ((int)fi->fh, size));
  fd = openat (base, below (path), O_WRONLY);
  if (fd == -1)
    return -errno;
  r = result (ftruncate (fd, size));
  close (fd);
  return r;
}

static int
odd_fsync (const char *path, int datasync, struct fuse_file_info *fi)
{
  (void)path;
  return result (datasync ? fdatasync ((int)fi->fh) : fsync ((int)fi->fh));
}

static int
odd_release (const char *path, struct fuse_file_info *fi)
{
  (void)path;
  return result (close ((int)fi->fh));
}

static int
odd_unlink (const char *path)
{
  return result (unlinkat (base, below (path), 0));
}

static int
odd_link (const char *from, const char *to)
{
  if (has ('l'))
    return -EPERM;
  return result (linkat (base, below (from), base, below (to), 0));
}

static int
odd_rename (const char *from, const char *to, unsigned flags)
{
  if (flags && has ('r'))
    return -EINVAL;
  return result (renameat2 (base, below (from), base, below (to), flags));
}

static int
odd_fallocate (const char *path, int mode, off_t offset, off_t length,
               struct fuse_file_info *fi)
{
  (void)path;
  if (has ('f') || has ('i'))
    return has ('f') ? -EOPNOTSUPP : -EINVAL;
  if (has ('n'))
    return 0;
  if (has ('e') && (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))) {
    off_t first = (offset + BLOCK - 1) / BLOCK * BLOCK;
    off_t last = (offset + length) / BLOCK * BLOCK;

    if (first >= last)
      return 0;
    offset = first;
    length = last - first;
  }
  return result (fallocate ((int)fi->fh, mode, offset, length));
}

static off_t
odd_lseek (const char *path, off_t offset, int whence,
           struct fuse_file_info *fi)
{
  off_t r;

  (void)path;
  if (has ('s'))
    return -ENOSYS;
  r = lseek ((int)fi->fh, offset, whence);
  return r == -1 ? -errno : r;
}

static int
odd_chmod (const char *path, mode_t mode, struct fuse_file_info *fi)
{
  (void)fi;
  return result (fchmodat (base, below (path), mode, 0));
}

static int
odd_utimens (const char *path, const struct timespec when[2],
             struct fuse_file_info *fi)
{
  (void)fi;
  return result (utimensat (base, below (path), when, AT_SYMLINK_NOFOLLOW));
}

static int
odd_readdir (const char *path, void *buf, fuse_fill_dir_t fill, off_t offset,
             struct fuse_file_info *fi, enum fuse_readdir_flags flags)
{
  int fd = openat (base, ".", O_RDONLY | O_DIRECTORY);
  DIR *dir = fd == -1 ? NULL : fdopendir (fd);
  struct dirent *e;

  (void)path;
  (void)offset;
  (void)fi;
  (void)flags;
  if (!dir)
    return -errno;
  while ((e = readdir (dir)))
    fill (buf, e->d_name, NULL, 0, 0);
  closedir (dir);
  return 0;
}

static const struct fuse_operations operations = {
  .init = odd_init,
  .getattr = odd_getattr,
  .open = odd_open,
  .create = odd_create,
  .read = odd_read,
  .write = odd_write,
  .truncate = odd_truncate,
  .fsync = odd_fsync,
  .release = odd_release,
  .unlink = odd_unlink,
  .link = odd_link,
  .rename = odd_rename,
  .fallocate = odd_fallocate,
  .lseek = odd_lseek,
  .chmod = odd_chmod,
  .utimens = odd_utimens,
  .readdir = odd_readdir,
};

int
main (int argc, char **argv)
{
  char foreground[] = "-f", option[] = "-odefault_permissions,fsname=oddfs";
  char *args[] = { argv[0], foreground, option, NULL, NULL };

  if (argc != 4) {
    fprintf (stderr, "usage: oddfs OPTIONS FOLDER MOUNTPOINT\n");
    return 2;
  }
  options = argv[1];
  base = open (argv[2], O_RDONLY | O_DIRECTORY);
  if (base == -1) {
    perror (argv[2]);
    return 1;
  }
  args[3] = argv[3];
  return fuse_main (4, args, &operations, NULL);
}
