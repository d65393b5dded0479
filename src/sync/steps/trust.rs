//! The judge of a run: the rules of its images file, with the keys and roots that they name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{InputError, TrustFileError};
use crate::state::{Signer, TrustPolicy};
use crate::sync::verb_error::VerbError;
use crate::sys;
use crate::trust::Judge;

/// The largest file of keys or roots, in bytes: Sigstore's trusted root has a few thousand.
const MAX_FILE: u64 = 4 << 20;

/// Makes the judge by the rules of `policy`.
///
/// # Errors
/// A file that the rules name is missing, or is not what they take it for.
pub(crate) fn judge(policy: &TrustPolicy) -> Result<Judge, VerbError> {
    let mut files: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    for path in policy.files() {
        let bytes = read_file(path, &rule_of(policy, path))?;
        files.insert(path.to_owned(), bytes);
    }
    Ok(Judge::new(policy, &files).map_err(InputError::TrustFile)?)
}

/// Reads a file of keys or roots, which `rule` names.
///
/// # Errors
/// The file is missing, too large, or not a regular one.
pub(crate) fn read_file(path: &Path, rule: &str) -> Result<Vec<u8>, InputError> {
    sys::read_regular(path, MAX_FILE).map_err(|error| {
        InputError::TrustFile(TrustFileError {
            path: path.to_owned(),
            rule: rule.to_owned(),
            reason: error.to_string(),
            hint: None,
        })
    })
}

/// The place of the first rule that names the file, for people.
fn rule_of(policy: &TrustPolicy, path: &Path) -> String {
    let names = |signer: &Signer| match signer {
        Signer::Nobody | Signer::Keyless(_) => false,
        Signer::Keys { files, .. } => files.iter().any(|file| file == path),
        Signer::Notation { roots, .. } => roots == path,
    };
    let rule = policy.rules.iter().find(|rule| names(&rule.signer));
    rule.map_or_else(|| "trusted-root".to_owned(), |rule| rule.place.clone())
}
