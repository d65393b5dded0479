//! Altered, cut and senseless input: nothing of it is accepted, and nothing panics.

use proptest::prelude::*;

use super::*;

/// Everything that is stamped and past its certificate's end, so that no part goes unused.
fn whole() -> [(Candidate, String); 2] {
    [text!("notation-jws-stamped.json"), text!("notation-cose-stamped.json")].map(candidate)
}

fn accepted(candidate: &Candidate, kind: &str) -> bool {
    judged_blob(candidate, kind, ROOTS, "CN=images", made() + 3600).is_ok()
}

/// The parts that nobody signs and nothing follows from: the name of the signing program, and the
/// root that the timestamp repeats (the one that counts is the user's).
fn free(blob: &[u8]) -> Vec<usize> {
    let find = |text: &[u8], part: &[u8]| text.windows(part.len()).position(|window| window == part);
    let value = b"notation-go/1.3.2";
    let end = find(blob, value).unwrap() + value.len();
    let mut free: Vec<usize> = (find(blob, b"io.cncf.notary.signingAgent").unwrap()..end).collect();
    let root = &Roots::parse(ROOTS.as_bytes()).unwrap().canonical();
    let root = root.iter().find(|der| find(der, b"Stamper").is_some()).unwrap();
    if let Some(start) = find(blob, root) {
        free.extend(start..start + root.len());
    } else {
        let name = b"io.cncf.notary.timestampSignature\":\"";
        let start = find(blob, name).unwrap() + name.len();
        let token = blob[start..].split(|byte| *byte == b'"').next().unwrap();
        let inside = find(&STANDARD.decode(token).unwrap(), root).unwrap();
        // A digit has six bits of it.
        free.extend(start + inside * 8 / 6..=start + (inside + root.len()) * 8 / 6);
    }
    free
}

#[test]
fn no_altered_byte_is_accepted() {
    for (candidate, kind) in whole() {
        assert!(accepted(&candidate, &kind));
        let free = free(&candidate.blob);
        assert!(free.len() < candidate.blob.len() / 4);
        for position in (0..candidate.blob.len()).filter(|position| !free.contains(position)) {
            let mut altered = candidate.clone();
            altered.blob[position] ^= 1 << (position % 8);
            assert!(!accepted(&altered, &kind), "{kind}: byte {position} is {}", altered.blob[position]);
        }
    }
}

#[test]
fn nothing_that_is_cut_or_goes_on_is_accepted() {
    for (candidate, kind) in whole() {
        for length in (0..candidate.blob.len()).step_by(5) {
            let mut cut = candidate.clone();
            cut.blob.truncate(length);
            assert!(!accepted(&cut, &kind), "{kind}: {length}");
        }
        let mut longer = candidate.clone();
        longer.blob.push(0);
        assert!(!accepted(&longer, &kind), "{kind}");
    }
}

#[test]
fn deep_and_huge_texts_are_refused() {
    let [(mut candidate, _), _] = whole();
    for (kind, blob) in [
        (JWS, "[".repeat(4 << 20).into_bytes()),
        (JWS, format!("{{\"payload\":{}", "[".repeat(1 << 20)).into_bytes()),
        (COSE, vec![0x81; 4 << 20]),
        (COSE, [&[0xd2, 0x84, 0x5a, 0, 0x3f, 0xff, 0xf0][..], &vec![0; 4 << 20]].concat()),
        (COSE, vec![0xd2, 0x84, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        (COSE, vec![0xd2, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ] {
        candidate.blob = blob;
        let refused = judged_blob(&candidate, kind, ROOTS, "*", made()).unwrap_err();
        assert!(refused.reason.contains("cannot be read"), "{refused:?}");
    }
}

proptest! {
    #[test]
    fn several_altered_bytes_are_not_accepted_either(
        at in 0_usize..2,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (candidate, kind) = &whole()[at];
        let free = free(&candidate.blob);
        let mut altered = candidate.clone();
        for (position, byte) in changes {
            let position = position.index(altered.blob.len());
            if !free.contains(&position) {
                altered.blob[position] = byte;
            }
        }
        prop_assert!(altered.blob == candidate.blob || !accepted(&altered, kind));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..256), now in any::<i64>()) {
        let roots = Roots::parse(ROOTS.as_bytes()).unwrap();
        let _ = jws::read(&bytes);
        let _ = cose::read(&bytes);
        let _ = cose::read(&[&[0xd2, 0x84][..], &bytes].concat());
        let _ = timestamp::verify(&bytes, b"signature", &roots, now);
        let _ = Chain::read(std::slice::from_ref(&bytes));
        let _ = Roots::parse(&bytes);
        let _ = Subject::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_time_makes_it_panic(now in any::<i64>()) {
        for (candidate, kind) in whole() {
            let _ = judged_blob(&candidate, &kind, ROOTS, "*", now);
        }
    }
}
