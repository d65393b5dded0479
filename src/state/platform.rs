//! Platforms: an operating system and an architecture, in the one spelling that is compared.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// An operating system, an architecture and sometimes a variant, as in `linux/arm64/v8`.
///
/// A platform is always normalised as containerd's `platforms` package does: `x86_64` is `amd64`,
/// `aarch64` is `arm64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`, `amd64/v1` is `amd64`.
/// A clone shares the words: a run has the platform of each image several times.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform(Arc<Words>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Words {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// Makes a platform of three words, normalised.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let variant = variant.filter(|variant| !variant.is_empty()).map(str::to_ascii_lowercase);
        let architecture = architecture.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("amd64" | "x86_64" | "x86-64", None | Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64", Some(_)) => ("amd64", variant),
            ("arm64" | "aarch64", None | Some("8" | "v8")) => ("arm64", None),
            ("aarch64", Some(_)) => ("arm64", variant),
            ("armhf", _) | ("arm", None | Some("7")) => ("arm", Some("v7".to_owned())),
            ("armel", _) | ("arm", Some("6")) => ("arm", Some("v6".to_owned())),
            ("arm", Some("5")) => ("arm", Some("v5".to_owned())),
            ("i386", _) => ("386", None),
            _ => (architecture.as_str(), variant),
        };
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let architecture = architecture.to_owned();
        Self(Arc::new(Words { os, architecture, variant }))
    }

    /// Makes a platform before which no other one is sorted.
    pub(crate) fn first() -> Self {
        Self::new("", "", None)
    }

    /// The operating system in Go's spelling, `linux`.
    pub fn os(&self) -> &str {
        &self.0.os
    }

    /// The architecture in Go's spelling, `amd64`.
    pub fn architecture(&self) -> &str {
        &self.0.architecture
    }

    /// The variant, `v6`, `v7`, … where the architecture has variants.
    pub fn variant(&self) -> Option<&str> {
        self.0.variant.as_deref()
    }

    /// Parses `os/architecture[/variant]`.
    ///
    /// # Errors
    /// The text has fewer than two or more than three words, or an empty or odd one.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !parts.iter().all(|part| word(part)) {
            return Err("a platform is os/architecture or os/architecture/variant, as in linux/arm64");
        }
        match parts[..] {
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err("a platform is os/architecture or os/architecture/variant, as in linux/arm64"),
        }
    }

    /// Parses a platform that a user asks for: one whose images can be used here.
    ///
    /// # Errors
    /// The text is not one that [`Platform::parse`] reads, or names Windows, whose layers are no
    /// file trees of Linux.
    pub fn parse_wanted(text: &str) -> Result<Self, &'static str> {
        match Self::parse(text)? {
            platform if platform.os() == "windows" => Err(
                "images for Windows cannot be used: their layers are not what Linux, and so a microVM, can read",
            ),
            platform => Ok(platform),
        }
    }

    /// The platform of this machine: `linux/` and its architecture.
    pub fn of_this_machine() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os(), self.architecture())?;
        if let Some(variant) = self.variant() {
            write!(f, "/{variant}")?;
        }
        Ok(())
    }
}

impl Serialize for Platform {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_normalised_as_containerd_does() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), expected);
        }
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/a b"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
        assert!(Platform::parse("windows/amd64").is_ok(), "a registry may list it");
        assert!(Platform::parse_wanted("Windows/amd64").unwrap_err().contains("Windows"));
        assert_eq!(Platform::parse_wanted("linux/amd64"), Platform::parse("linux/amd64"));
    }
}
