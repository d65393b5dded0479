//! A disk that remembers each write and each flush, so that what a power loss leaves of it can be made for any moment.
//!
//! A file system of one file is served over `/dev/fuse` (the kernel's protocol, `linux/fuse.h`, version 7.31). A loop
//! device on that file has its writes come here in the order in which they are made, and its flushes as `fsync`. What
//! was written before the last flush is on the disk for certain; of what came after, a power loss may leave anything.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::io::FdFlags;

/// Bytes of one write request at most.
const MAX_WRITE: usize = 128 * 1024;
/// What a power loss keeps or loses as a whole.
const PAGE: usize = 4096;
/// Bytes of all writes that are remembered, at most.
const MAX_RECORDED: usize = 512 << 20;

const ROOT: u64 = 1;
const DISK: u64 = 2;
const NAME: &str = "disk";

const ENOENT: i32 = 2;
const EINTR: i32 = 4;
const EIO: i32 = 5;
const ENOSYS: i32 = 38;

/// What happened to some disks, in one order.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
enum Entry {
    Write { disk: usize, offset: usize, data: Vec<u8> },
    Flush { disk: usize },
}

/// What a power loss does to writes that were not flushed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    /// All of them are gone.
    All,
    /// Some pages of them are, which ones is drawn from this seed.
    Some(u64),
}

impl Recording {
    /// This moment: how much has happened by now.
    pub(crate) fn now(&self) -> usize {
        self.entries.lock().unwrap().len()
    }

    /// What the disk `disk`, which began as `content`, holds after the power was lost at `moment`.
    pub(crate) fn after_loss(&self, disk: usize, mut content: Vec<u8>, moment: usize, loss: Loss) -> Vec<u8> {
        let entries = self.entries.lock().unwrap();
        let entries = &entries[..moment];
        let is_flush = |entry: &Entry| matches!(entry, Entry::Flush { disk: of } if *of == disk);
        let flushed = entries.iter().rposition(is_flush).unwrap_or(0);
        let mut seed = match loss {
            Loss::All => 0,
            Loss::Some(seed) => seed,
        };
        for (at, entry) in entries.iter().enumerate() {
            let Entry::Write { disk: of, offset, data } = entry else { continue };
            if *of != disk {
                continue;
            }
            for (number, page) in data.chunks(PAGE).enumerate() {
                // A linear congruence is random enough.
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let kept = at < flushed || matches!(loss, Loss::Some(_)) && seed >> 63 == 1;
                if kept {
                    let start = offset + number * PAGE;
                    content[start..start + page.len()].copy_from_slice(page);
                }
            }
        }
        content
    }

    fn note(&self, entry: Entry) {
        self.entries.lock().unwrap().push(entry);
    }
}

/// A disk that is being recorded. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct RecordedDisk {
    place: PathBuf,
    server: Option<JoinHandle<()>>,
}

impl RecordedDisk {
    /// Serves `content` at `place`, a new directory, and records as the disk `disk`.
    ///
    /// # Errors
    /// FUSE is missing, or must not be used.
    pub(crate) fn start(
        recording: &Arc<Recording>,
        disk: usize,
        content: Vec<u8>,
        place: &Path,
    ) -> io::Result<Self> {
        std::fs::create_dir(place)?;
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        rustix::io::fcntl_setfd(&device, FdFlags::empty())?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let mount = Command::new("mount")
            .args(["-i", "-t", "fuse", "-o", &options, "recorded"])
            .arg(place)
            .output()?;
        rustix::io::fcntl_setfd(&device, FdFlags::CLOEXEC)?;
        if !mount.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&mount.stderr).into_owned()));
        }
        let recording = Arc::clone(recording);
        let server = std::thread::Builder::new()
            .name("fuse".to_owned())
            .spawn(move || Server { device, disk, content, recording }.run())?;
        Ok(Self { place: place.to_owned(), server: Some(server) })
    }

    /// The file that a loop device is to be made of.
    pub(crate) fn file(&self) -> PathBuf {
        self.place.join(NAME)
    }
}

impl Drop for RecordedDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.place).output();
        let unmounted = unmounted.is_ok_and(|output| output.status.success());
        if let Some(server) = self.server.take().filter(|_| unmounted) {
            // It has failed or ended; a test that it failed has told so.
            let _ = server.join();
        }
    }
}

struct Server {
    device: File,
    disk: usize,
    content: Vec<u8>,
    recording: Arc<Recording>,
}

type Answer = Result<Vec<u8>, i32>;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn size_at(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u64_at(bytes, at)).unwrap()
}

/// Numbers of four and eight bytes, one after the other.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn words(mut self, words: &[u32]) -> Self {
        self.0.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self
    }

    fn longs(mut self, longs: &[u64]) -> Self {
        self.0.extend(longs.iter().flat_map(|long| long.to_le_bytes()));
        self
    }
}

impl Server {
    /// Until the file system is unmounted.
    fn run(mut self) {
        let mut buffer = vec![0; MAX_WRITE + PAGE];
        let mut recorded = 0;
        loop {
            let length = match (&self.device).read(&mut buffer) {
                Ok(length) => length,
                // A request that was taken back.
                Err(error) if matches!(error.raw_os_error(), Some(ENOENT | EINTR)) => continue,
                Err(_) => return,
            };
            let request = &buffer[..length];
            let (opcode, unique, node) = (u32_at(request, 4), u64_at(request, 8), u64_at(request, 16));
            let body = &request[40..];
            recorded += body.len();
            assert!(recorded < MAX_RECORDED, "the test writes too much");
            let Some(answer) = self.answer(opcode, node, body) else { continue };
            let (error, data) = match answer {
                Ok(data) => (0_i32, data),
                Err(error) => (-error, Vec::new()),
            };
            let mut reply = Vec::with_capacity(16 + data.len());
            reply.extend(u32::try_from(16 + data.len()).unwrap().to_le_bytes());
            reply.extend(error.to_le_bytes());
            reply.extend(unique.to_le_bytes());
            reply.extend(data);
            // Whoever asked may be gone.
            let _ = (&self.device).write(&reply);
        }
    }

    /// `None`: nobody waits for an answer.
    fn answer(&mut self, opcode: u32, node: u64, body: &[u8]) -> Option<Answer> {
        Some(match opcode {
            // FORGET, INTERRUPT, BATCH_FORGET
            2 | 36 | 42 => return None,
            // LOOKUP
            1 if node == ROOT && body.split(|&b| b == 0).next() == Some(NAME.as_bytes()) => {
                let entry = Out::default().longs(&[DISK, 0, 3600, 3600]).words(&[0, 0]);
                Ok([entry.0, self.attributes(DISK)].concat())
            }
            1 => Err(ENOENT),
            // GETATTR, SETATTR
            3 | 4 => Ok([Out::default().longs(&[3600]).words(&[0, 0]).0, self.attributes(node)].concat()),
            // OPEN, OPENDIR
            14 | 27 => Ok(Out::default().longs(&[0]).words(&[0, 0]).0),
            // READ
            15 => {
                let start = size_at(body, 8).min(self.content.len());
                let end = self.content.len().min(start + usize::try_from(u32_at(body, 16)).unwrap());
                Ok(self.content[start..end].to_vec())
            }
            // WRITE
            16 => {
                let (offset, size) = (size_at(body, 8), u32_at(body, 16));
                let data = body[40..40 + usize::try_from(size).unwrap()].to_vec();
                match self.content.get_mut(offset..offset + data.len()) {
                    Some(place) => {
                        place.copy_from_slice(&data);
                        self.recording.note(Entry::Write { disk: self.disk, offset, data });
                        Ok(Out::default().words(&[size, 0]).0)
                    }
                    None => Err(EIO),
                }
            }
            // STATFS
            17 => {
                let pages = self.content.len() as u64 / PAGE as u64;
                Ok(Out::default()
                    .longs(&[pages, 0, 0, 1, 0])
                    .words(&[4096, 255, 4096, 0, 0, 0, 0, 0, 0, 0])
                    .0)
            }
            // FSYNC
            20 => {
                self.recording.note(Entry::Flush { disk: self.disk });
                Ok(Vec::new())
            }
            // RELEASE, FLUSH, RELEASEDIR, DESTROY
            18 | 25 | 29 | 38 => Ok(Vec::new()),
            // INIT; of what the kernel offers only FUSE_BIG_WRITES is wanted, above all no cache for writes
            26 => {
                let max_write = u32::try_from(MAX_WRITE).unwrap();
                let out = Out::default().words(&[7, 31, 0, 1 << 5, 0, max_write, 1, 0]);
                Ok(out.words(&[0; 8]).0)
            }
            _ => Err(ENOSYS),
        })
    }

    fn attributes(&self, node: u64) -> Vec<u8> {
        let (size, mode, links) =
            if node == DISK { (self.content.len() as u64, 0o100_600, 1) } else { (0, 0o040_700, 2) };
        let out = Out::default().longs(&[node, size, size / 512, 0, 0, 0]);
        out.words(&[0, 0, 0, mode, links, 0, 0, 0, 4096, 0]).0
    }
}
