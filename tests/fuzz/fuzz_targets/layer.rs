//! See `msb_sync::fuzzing`. A changed tar header needs a new checksum, or nothing behind it is ever reached.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|data: &[u8]| msb_sync::fuzzing::run("layer", data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let size = fuzzer_mutate(data, size, max_size);
    let compressed = data.starts_with(&[0x1f, 0x8b]) || data.starts_with(&[0x28, 0xb5]);
    // Some stay as they are, for the checks of the checksum itself.
    if !compressed && seed % 8 != 0 {
        mend_checksums(&mut data[..size]);
    }
    size
});

/// Goes from header to header, as far as sizes are believable.
fn mend_checksums(tar: &mut [u8]) {
    let mut start = 0;
    while let Some(block) = tar.get_mut(start..start + 512) {
        if block.iter().any(|byte| *byte != 0) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let size = match std::str::from_utf8(&block[124..136]) {
            Ok(text) => usize::from_str_radix(text.trim_matches(['\0', ' ']), 8).unwrap_or(0),
            Err(_) => 0,
        };
        start += 512 + size.min(1 << 30).next_multiple_of(512);
    }
}
