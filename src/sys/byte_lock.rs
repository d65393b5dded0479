//! Locks of single bytes of a file, each of which may have another holder.

use std::fs::File;
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd as _;

/// Takes the lock of the byte at `offset` of `file`, which need not be there, if nobody else has
/// it; `false` if somebody has. It belongs to this open file, also against others of this process,
/// and ends with it, and so with the process at the latest.
pub(crate) fn try_lock_byte(file: &File, offset: u64) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    {
        let start = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let number = |number: libc::c_int| libc::c_short::try_from(number).map_err(io::Error::other);
        let lock = libc::flock {
            l_type: number(libc::F_WRLCK)?,
            l_whence: number(libc::SEEK_SET)?,
            l_start: start,
            l_len: 1,
            l_pid: 0,
        };
        #[expect(unsafe_code, reason = "rustix has no locks of open files")]
        // SAFETY: the descriptor is open as long as `file` is borrowed, and the structure that the
        // call reads lives until it returns.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
        if result == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES | libc::EINTR) => Ok(false),
            _ => Err(error),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        // One holder of the whole file is too few, never too many.
        let _ = offset;
        super::try_lock(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_one_holder_who_goes_with_his_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(file.path()).unwrap();
        let (one, other) = (open(), open());
        assert!(try_lock_byte(&one, 1).unwrap());
        assert!(try_lock_byte(&one, 1).unwrap(), "it is one's own");
        assert!(!try_lock_byte(&other, 1).unwrap());
        assert!(try_lock_byte(&other, 2).unwrap());
        drop(one);
        assert!(try_lock_byte(&other, 1).unwrap());
    }
}
