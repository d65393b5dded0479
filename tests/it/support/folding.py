#!/usr/bin/python3
"""A file system that does not tell capitals and composed letters apart, as ext4 with casefold: BACKING seen at PLACE.

Needs Debian's python3-fusepy. Names keep the spelling of their first use.
"""

import errno
import os
import sys
import unicodedata

try:
    from fusepy import FUSE, FuseOSError, Operations
except ImportError:
    from fuse import FUSE, FuseOSError, Operations


def folded(name):
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


class Folding(Operations):
    use_ns = True

    def __init__(self, backing):
        self.backing = backing

    def there(self, path):
        """Where PATH is, by the spelling that it has; what is not there keeps the one asked for."""
        at = self.backing
        for name in path.strip("/").split("/"):
            if not name:
                continue
            try:
                names = {folded(other): other for other in os.listdir(at)}
            except OSError:
                names = {}
            at = os.path.join(at, names.get(folded(name), name))
        return at

    def __call__(self, op, path, *args):
        try:
            return super().__call__(op, path, *args)
        except OSError as error:
            raise FuseOSError(error.errno or errno.EIO)

    def getattr(self, path, fh=None):
        stat = os.lstat(self.there(path))
        keys = "st_mode st_nlink st_uid st_gid st_size st_blocks st_ino".split()
        found = {key: getattr(stat, key) for key in keys}
        found.update({f"st_{key}time": getattr(stat, f"st_{key}time_ns") for key in "amc"})
        return found

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(self.there(path))]

    def readlink(self, path):
        return os.readlink(self.there(path))

    def mkdir(self, path, mode):
        os.mkdir(self.there(path), mode)

    def rmdir(self, path):
        os.rmdir(self.there(path))

    def unlink(self, path):
        os.unlink(self.there(path))

    def symlink(self, path, target):
        os.symlink(target, self.there(path))

    def link(self, path, source):
        os.link(self.there(source), self.there(path), follow_symlinks=False)

    def rename(self, old, new):
        os.rename(self.there(old), self.there(new))

    def chmod(self, path, mode):
        os.chmod(self.there(path), mode)

    def chown(self, path, uid, gid):
        os.chown(self.there(path), uid, gid, follow_symlinks=False)

    def utimens(self, path, times=None):
        os.utime(self.there(path), ns=times, follow_symlinks=False)

    def create(self, path, mode, fi=None):
        return os.open(self.there(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def open(self, path, flags):
        return os.open(self.there(path), flags & ~(os.O_DIRECT | os.O_NOFOLLOW))

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        return os.pwrite(fh, data, offset)

    def truncate(self, path, length, fh=None):
        os.truncate(fh if fh is not None else self.there(path), length)

    def fsync(self, path, datasync, fh):
        os.fsync(fh)

    def release(self, path, fh):
        os.close(fh)

    def getxattr(self, path, name, position=0):
        return os.getxattr(self.there(path), name, follow_symlinks=False)

    def setxattr(self, path, name, value, options, position=0):
        os.setxattr(self.there(path), name, value, options, follow_symlinks=False)

    def listxattr(self, path):
        return os.listxattr(self.there(path), follow_symlinks=False)

    def removexattr(self, path, name):
        os.removexattr(self.there(path), name, follow_symlinks=False)

    def statfs(self, path):
        stat = os.statvfs(self.backing)
        keys = "f_bavail f_bfree f_blocks f_bsize f_favail f_ffree f_files f_flag f_frsize f_namemax".split()
        return {key: getattr(stat, key) for key in keys}


if __name__ == "__main__":
    FUSE(Folding(sys.argv[1]), sys.argv[2], foreground=True, nothreads=True, allow_other=False, use_ino=True)
