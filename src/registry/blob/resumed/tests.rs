//! A blob's reader over scripted sources: no sockets, and each test says what the sources do.

use std::num::NonZeroU64;
use std::time::Instant;

use super::*;
use crate::cancel::Cancel;
use crate::digest::Algorithm;
use crate::progress::{Event, Reporter};
use crate::registry::pace::Paces;
use crate::registry::transport::Environment;

struct Deaf;

impl Reporter for Deaf {
    fn report(&self, _: Event) {}
}

/// The end of a scripted body.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// The body ends.
    Close,
    /// The connection breaks.
    Break,
}

/// A body of these bytes.
struct Scripted(VecDeque<u8>, End);

impl Body for Scripted {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, FailedTry> {
        if self.0.is_empty() && self.1 == End::Break {
            return Err(broken());
        }
        let count = buffer.len().min(self.0.len());
        buffer[..count].iter_mut().for_each(|byte| *byte = self.0.pop_front().unwrap());
        Ok(count)
    }

    fn has_more(&mut self, _: Duration) -> bool {
        !self.0.is_empty()
    }
}

fn broken() -> FailedTry {
    FailedTry::transient(RegistryError::Protocol {
        url: "u".to_owned(),
        reason: "broke".to_owned(),
        may_be_tls: false,
    })
}

/// An answer from `first` on, of which only `bytes` come.
fn transfer(first: u64, bytes: &[u8], end: End) -> Transfer {
    let body = Box::new(Scripted(bytes.iter().copied().collect(), end));
    Transfer { body, whole: first == 0, measured: false, host: "h".to_owned() }
}

/// The positions that sources were asked for, and the errors for which they were given up.
type Heard = Arc<Mutex<Vec<String>>>;

fn source(
    heard: &Heard,
    name: &'static str,
    mut open: impl FnMut(u64) -> Result<Transfer, FailedTry> + Send + 'static,
) -> Source {
    let (asked, gone) = (Arc::clone(heard), Arc::clone(heard));
    Source {
        url: name.to_owned(),
        open: Box::new(move |position| {
            lock(&asked).push(format!("{name} {position}"));
            open(position)
        }),
        given_up: Box::new(move |_| lock(&gone).push(format!("not {name}"))),
    }
}

const BLOB: &[u8] = b"0123456789";

fn open(offset: u64, sources: Vec<Source>, cancel: &Cancel) -> Result<Resumed, RegistryError> {
    open_paced(offset, sources, cancel, None)
}

fn open_paced(
    offset: u64,
    sources: Vec<Source>,
    cancel: &Cancel,
    pace: Option<Pace>,
) -> Result<Resumed, RegistryError> {
    let environment = Environment::default();
    let network = Arc::new(Network::new(environment, 1, cancel.clone(), Arc::new(Deaf)));
    let digest = BlobDigest::of(Algorithm::Sha256, BLOB);
    Resumed::open(network, &digest, BLOB.len() as u64, offset, sources.into(), Arc::default(), pace)
}

/// Reads all that there is, three bytes at a time.
fn read(offset: u64, sources: Vec<Source>) -> Result<Vec<u8>, RegistryError> {
    let mut blob = open(offset, sources, &Cancel::new())?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 3]);
    loop {
        match blob.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend(&buffer[..count]),
            Err(error) => {
                let again = blob.read(&mut buffer).unwrap_err();
                assert!(again.to_string().contains("failed already"), "{again}");
                return Err(error);
            }
        }
    }
}

#[test]
fn a_transfer_that_breaks_goes_on_where_it_stopped() {
    let heard = Heard::default();
    let from = |position: u64| &BLOB[usize::try_from(position).unwrap()..];
    let parts = source(&heard, "a", move |position| {
        let rest = from(position);
        Ok(transfer(position, &rest[..rest.len().min(4)], End::Break))
    });
    assert_eq!(read(0, vec![parts]).unwrap(), BLOB);
    assert_eq!(*lock(&heard), ["a 0", "a 4", "a 8"]);
    let heard = Heard::default();
    let rest = source(&heard, "a", move |position| Ok(transfer(position, from(position), End::Close)));
    assert_eq!(read(7, vec![rest]).unwrap(), b"789");
    assert_eq!(*lock(&heard), ["a 7"]);
    assert_eq!(read(10, vec![]).unwrap(), b"", "nothing is asked where nothing is missing");
}

#[test]
fn a_paced_transfer_has_the_same_bytes_and_counts_those_that_come_again() {
    let started = Instant::now();
    let paces = Arc::new(Paces::new(NonZeroU64::new(2_000), std::iter::empty()));
    let pace = paces.of(["r", "r"]).unwrap().begin();
    let mut length = 0;
    let whole = source(&Heard::default(), "a", move |_| {
        length += 4;
        Ok(transfer(0, &BLOB[..length.min(BLOB.len())], End::Break))
    });
    let mut blob = open_paced(0, vec![whole], &Cancel::new(), Some(pace)).unwrap();
    let (mut bytes, mut buffer) = (Vec::<u8>::new(), [0; 3]);
    loop {
        match blob.read(&mut buffer).unwrap() {
            0 => break,
            count => bytes.extend(&buffer[..count]),
        }
    }
    assert_eq!(bytes, BLOB);
    // 4 bytes, 8 bytes, and all 10.
    assert!(started.elapsed() >= Duration::from_millis(11), "{:?}", started.elapsed());
}

#[test]
fn bytes_that_come_again_are_skipped() {
    let heard = Heard::default();
    let mut length = 0;
    let whole = source(&heard, "a", move |_| {
        length += 4;
        Ok(transfer(0, &BLOB[..length.min(BLOB.len())], End::Break))
    });
    assert_eq!(read(0, vec![whole]).unwrap(), BLOB);
    assert_eq!(*lock(&heard), ["a 0", "a 4", "a 8"]);
}

#[test]
fn a_body_that_is_too_short_or_too_long_is_an_error() {
    let heard = Heard::default();
    let short = source(&heard, "a", |position| Ok(transfer(position, b"", End::Close)));
    let error = read(2, vec![short]).unwrap_err();
    let expected = |source: &ContentMismatch| matches!(source, ContentMismatch::TooShort { actual: 2, .. });
    assert!(matches!(&error, RegistryError::Mismatch { source, .. } if expected(source)), "{error}");
    assert_eq!(lock(&heard).len(), TRIES as usize, "a break may be the server's bad moment");
    let long = source(&Heard::default(), "a", |_| Ok(transfer(0, b"0123456789+", End::Close)));
    let error = read(0, vec![long]).unwrap_err();
    let source = |source: &ContentMismatch| matches!(source, ContentMismatch::TooLong { .. });
    assert!(matches!(&error, RegistryError::Mismatch { source: found, .. } if source(found)), "{error}");
}

#[test]
fn a_server_that_says_it_goes_on_and_sends_nothing_is_left_in_the_end() {
    let heard = Heard::default();
    let mut first = true;
    let liar = source(&heard, "a", move |position| {
        let bytes = if std::mem::take(&mut first) { &BLOB[..5] } else { b"" };
        Ok(transfer(position, bytes, End::Close))
    });
    assert!(read(0, vec![liar]).is_err());
    assert_eq!(lock(&heard).len(), TRIES as usize);
}

#[test]
fn patience_ends_however_a_server_keeps_it_alive() {
    // Each try brings no byte that is new, after as many as are forgiven.
    let digest = BlobDigest::of(Algorithm::Sha256, BLOB);
    let environment = Environment::default();
    let network = Arc::new(Network::new(environment, 1, Cancel::new(), Arc::new(Deaf)));
    let heard = Heard::default();
    let mut next = 0_u64;
    let drips = source(&heard, "a", move |position| {
        assert_eq!(position, next);
        next += 1;
        Ok(transfer(position, b"x", End::Break))
    });
    let patience = Arc::<Mutex<Patience>>::default();
    let sources = VecDeque::from([drips]);
    let mut blob = Resumed::open(network, &digest, 1 << 40, 0, sources, patience, None).unwrap();
    let mut buffer = [0; 8];
    let mut count = 0;
    while blob.read(&mut buffer).is_ok() {
        count += 1;
    }
    assert!((90..=110).contains(&count), "{count}");
    // A server that knows the start only is read again a few times.
    let heard = Heard::default();
    let mut length = 0;
    let whole = source(&heard, "a", move |_| {
        length += 1;
        Ok(transfer(0, &BLOB[..length], End::Break))
    });
    assert!(read(0, vec![whole]).is_err());
    assert!((6..=7).contains(&lock(&heard).len()), "{:?}", lock(&heard));
}

#[test]
fn a_mirror_that_fails_is_given_up_and_the_next_source_goes_on() {
    let heard = Heard::default();
    let mut first = true;
    let mirror = source(&heard, "m", move |position| {
        let begins = std::mem::take(&mut first);
        if begins { Ok(transfer(position, &BLOB[..3], End::Break)) } else { Err(broken()) }
    });
    let endpoint = source(&heard, "e", |position| Ok(transfer(position, &BLOB[3..], End::Close)));
    assert_eq!(read(0, vec![mirror, endpoint]).unwrap(), BLOB);
    assert_eq!(*lock(&heard), ["m 0", "m 3", "not m", "e 3"]);
    // A refusal that is final costs no second try.
    let heard = Heard::default();
    let final_ =
        || RegistryError::Protocol { url: "u".to_owned(), reason: "no".to_owned(), may_be_tls: false };
    let mirror = source(&heard, "m", move |_| Err(final_().into()));
    let endpoint = source(&heard, "e", |position| Ok(transfer(position, BLOB, End::Close)));
    assert_eq!(read(0, vec![mirror, endpoint]).unwrap(), BLOB);
    assert_eq!(*lock(&heard), ["m 0", "not m", "e 0"]);
}

#[test]
fn a_stopped_run_asks_nobody_again() {
    let (heard, cancel) = (Heard::default(), Cancel::new());
    let rest = source(&heard, "a", |position| Ok(transfer(position, BLOB, End::Break)));
    let mut blob = open(0, vec![rest], &cancel).unwrap();
    cancel.cancel();
    assert!(matches!(blob.read(&mut [0; 4]), Err(RegistryError::Stopped)));
    assert_eq!(lock(&heard).len(), 1);
}
