//! Every system call that has no wrapper in std: directory handles, `openat2`, xattrs, syncs.
//!
//! A call that takes a handle and a name, or a path beneath the handle, follows no symlink, so
//! whoever controls the names in a layer cannot reach outside its directory. Only these follow
//! symlinks: `open_directory` and `locate_directory`, which take whole paths, and `locate_at` and
//! `locate_in_root`, which find directories as others do. Files of msb-sync's own, and those that
//! users name, are opened by `own` and `regular`, which refuse whatever somebody else may have put
//! there. This is the only file of the project that may hold `unsafe`.

mod byte_lock;
mod child;
mod descriptors;
mod directories;
mod disks;
mod marks;
mod metadata;
mod names;
mod open;
mod own;
mod refusal;
mod regular;
mod replace;
mod tree;
mod xattrs;

use std::fs::{File, TryLockError};
use std::io;
use std::sync::OnceLock;

pub(crate) use byte_lock::try_lock_byte;
pub(crate) use child::{
    await_output, await_room, detach, end_group, enlarge_pipe, has_ended, set_nonblocking,
};
pub use descriptors::raise_open_files_limit;
pub(crate) use descriptors::{is_descriptor_shortage, open_files_limit};
pub(crate) use directories::{DirectoryId, directory_id, is_one_directory};
pub(crate) use disks::{
    UnsyncedNames, free_space, has_lasting_inodes, may_change_unseen, mount_of, sync, sync_file_system,
    sync_names,
};
pub(crate) use marks::{lasting_mark, mark};
pub(crate) use metadata::{
    FileTime, Kind, Metadata, device_numbers, identity, metadata, metadata_of, set_mode, set_times,
    set_times_at,
};
pub(crate) use names::{
    each_entry, is_unsupported, make_directory, make_hard_link, make_symlink, read_link, remove_directory,
    remove_file, rename_exchange, rename_new, rename_over,
};
pub(crate) use open::{
    create_file, is_symlink_refusal, locate_at, locate_directory, locate_in_root, open_directory,
    open_directory_beneath, open_file, set_direct,
};
pub(crate) use own::{
    find_own_regular, has_own_file, has_sole_own_file, locate_own_directory_at, make_fresh_directory,
    make_own_directory_at, make_own_file, make_unnamed_file, make_unsynced_directory_at, name_file,
    open_or_make_own_file, open_own_directory, open_own_directory_at, open_own_file, read_own_file,
};
pub(crate) use refusal::{Refusal, is_own, refusal};
pub(crate) use regular::{may_open, open_regular, read_regular, read_regular_text};
pub(crate) use replace::{replace_file, replace_file_unsynced, sweep_replacements};
pub(crate) use tree::{Kept, find_mount, is_immutable, remove_tree, size_of_tree, with_rights};
pub(crate) use xattrs::{
    ImpossibleXattr, each_xattr, each_xattr_of_symlink, get_xattr, has_xattr, impossible_xattr, remove_acls,
    remove_user_xattrs, set_xattr,
};

/// The number of the user who runs this process.
pub(crate) fn user_id() -> u32 {
    rustix::process::getuid().as_raw()
}

/// This process's umask, if `/proc` tells it. Asking with `umask(2)` would change it for a moment
/// under other threads' feet.
pub(crate) fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(umask.trim(), 8).ok()
}

/// Takes the user's own bits out of this process's umask: no directory that is made is one that its
/// maker may not enter. It is for the start of a program, when there are no other threads.
pub fn keep_own_permissions() {
    use rustix::fs::Mode;
    use rustix::process::umask;
    let own = Mode::RWXU;
    let before = umask(Mode::RWXU | Mode::RWXG | Mode::RWXO);
    umask(before - own);
}

/// The identifier of this boot: data not synced in an earlier one is lost, data not synced in this
/// one is not.
pub(crate) fn boot_id() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    BOOT.get_or_init(|| std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()).as_deref()
}

/// Counts the bytes that a file which this process writes may have; `None`: any number.
pub(crate) fn file_size_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).current
}

/// Takes the lock of `file` if nobody has it; `false` if somebody has. It ends with the process at
/// the latest.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Has the kernel start to write a range of a file to the disk, without waiting. That is a hint
/// only: nothing is promised by it, and a kernel or file system that cannot do it does not.
pub(crate) fn start_writing_out(file: &File, offset: u64, length: u64) {
    #[cfg(target_os = "linux")]
    if let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) {
        use std::os::fd::AsRawFd;
        #[expect(unsafe_code, reason = "rustix does not have this call")]
        // SAFETY: the descriptor is open as long as `file` is borrowed, and the call takes nothing
        // but numbers.
        let _ =
            unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, length);
}

/// Keeps the allocator from holding memory in one arena a thread, and the windows of decoders after
/// they were freed: both would defeat the memory budget.
pub fn limit_allocator() {
    /// The bytes from which the system has what is freed at once. The allocator would raise them to
    /// the size of the largest block that was freed, and keep holes as large from then on.
    #[cfg(target_env = "gnu")]
    const OF_THE_SYSTEM: libc::c_int = 2 << 20;
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the allocator has no safe interface")]
    // SAFETY: mallopt only sets integers in the allocator and is called before any thread is
    // started.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OF_THE_SYSTEM);
        // As the allocator itself has the one follow the other.
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * OF_THE_SYSTEM);
    }
}

/// Has the allocator give the system the pages back that hold nothing any more. That takes a
/// moment: it is for the end of work that has taken much memory.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the allocator has no safe interface")]
    // SAFETY: malloc_trim takes the allocator's own locks, and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_exclusive_and_ends_with_its_holder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = file.reopen().unwrap();
        let second = File::open(file.path()).unwrap();
        assert!(try_lock(&first).unwrap());
        assert!(!try_lock(&second).unwrap());
        drop(first);
        assert!(try_lock(&second).unwrap());
    }
}
