//! The platforms whose images serve a machine.
//!
//! The rules are those of containerd's platform comparers: the exact variant, then lower ones where
//! the architecture has an order.

use crate::state::Platform;

/// Ranks how well `have` serves `want`: 0 is best, `None` is not at all.
///
/// The exact variant comes first, then lower ones where the architecture has an order (arm/v7 runs
/// v6 and v5; amd64/v3 runs v2 and v1).
pub(crate) fn rank(want: &Platform, have: &Platform) -> Option<u32> {
    if want.os() != have.os() || want.architecture() != have.architecture() {
        return None;
    }
    if want.variant() == have.variant() {
        return Some(0);
    }
    // Platform leaves out the variant that an architecture begins with.
    let base = match want.architecture() {
        "amd64" => Some(1),
        "arm64" => Some(8),
        _ => None,
    };
    let level = |platform: &Platform| match platform.variant() {
        Some(variant) => variant.strip_prefix('v')?.parse::<u32>().ok(),
        None => base,
    };
    let ordered = matches!(want.architecture(), "amd64" | "arm64" | "arm");
    match (level(want), level(have)) {
        (Some(want), Some(have)) if ordered => want.checked_sub(have),
        _ if have.variant().is_none() => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_best_variant_wins() {
        let rank =
            |want: &str, have: &str| rank(&Platform::parse(want).unwrap(), &Platform::parse(have).unwrap());
        assert_eq!(rank("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(rank("linux/arm64", "linux/arm64/v8"), Some(0));
        assert_eq!(rank("linux/amd64", "linux/amd64/v2"), None);
        assert!(rank("linux/amd64/v3", "linux/amd64/v2") < rank("linux/amd64/v3", "linux/amd64"));
        assert!(rank("linux/amd64/v3", "linux/amd64").is_some());
        assert!(rank("linux/arm/v7", "linux/arm/v6") < rank("linux/arm/v7", "linux/arm/v5"));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(rank("linux/arm/v6", "linux/arm"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
        assert_eq!(rank("linux/arm64", "linux/amd64"), None);
        assert!(rank("linux/mips64/softfloat", "linux/mips64").is_some());
    }

    proptest! {
        #[test]
        fn a_platform_serves_itself_and_no_other_architecture(
            architecture in "amd64|arm64|arm|386|riscv64", other in "s390x|ppc64le", variant in "(v[1-9])?"
        ) {
            let variant = Some(variant.as_str()).filter(|variant| !variant.is_empty());
            let platform = Platform::new("linux", &architecture, variant);
            prop_assert_eq!(rank(&platform, &platform), Some(0));
            prop_assert_eq!(rank(&platform, &Platform::new("linux", &other, variant)), None);
        }
    }
}
