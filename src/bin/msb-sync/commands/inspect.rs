//! `inspect`: shows one recorded image, or only the directories of its layers.

use msb_sync::clock::now;
use msb_sync::error::{Error, RecordedError};
use msb_sync::sync::{self, InspectedImage, Session, VerbError};

use crate::args::Inspect;
use crate::exit::Exit;
use crate::output::Output;
use crate::text::plural;
use crate::{human, json};

/// Bytes of a mount option, by mount(2): a page, without its final zero.
const MOUNT_LIMIT: usize = 4095;

pub(super) fn run(args: &Inspect, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let reference = session.reference(&args.reference)?;
    let Some(image) = sync::inspect(session, &reference)? else {
        let recorded = sync::list(session)?.into_iter().map(|listed| listed.image.reference);
        let repository = reference.repository_alone();
        let others = recorded.filter(|other| other.repository_alone() == repository).collect();
        return Err(Error::from(RecordedError::NotHere { reference, others }).into());
    };
    if args.rootfs {
        return rootfs(&image, output);
    }
    output.either(|| json::inspect(&image), || human::inspect(&image, now()));
    Ok(Exit::Done)
}

/// Prints the directories of an image that is all here.
fn rootfs(image: &InspectedImage, output: &Output) -> Result<Exit, VerbError> {
    let (listed, reference) = (&image.listed, &image.listed.image.reference);
    let failed = |error: RecordedError| Err(Error::from(error).into());
    if let Some(layer) = listed.absent().next() {
        let (reference, layer) = (reference.clone(), layer.digest.clone());
        return failed(RecordedError::Incomplete { reference, layer, foreign: listed.is_foreign() });
    }
    let directories = listed.rootfs();
    if directories.is_empty() {
        return failed(RecordedError::NoLayers { reference: reference.clone() });
    }
    if output.json {
        output.document(json::rootfs(&directories));
    } else {
        match human::lowerdir(&directories) {
            Ok(line) => {
                output.result(&format!("{line}\n"));
                if "lowerdir=".len() + line.len() > MOUNT_LIMIT {
                    output.human.warning(&format!(
                        "this is longer than the {MOUNT_LIMIT} bytes that mount takes at once; use the list of --json"
                    ));
                }
            }
            Err(path) => {
                return failed(RecordedError::NotMountable { path: path.to_owned() });
            }
        }
    }
    if image.stacking.whiteouts > 0 {
        output.human.warning(&format!(
            "{reference} has {} as plain files: microsandbox's overlay reads them, the kernel's overlayfs shows them",
            plural(usize::try_from(image.stacking.whiteouts).unwrap_or(usize::MAX), "whiteout")
        ));
    }
    Ok(Exit::Done)
}
