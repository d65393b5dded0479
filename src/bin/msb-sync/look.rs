//! The verbs that only look at what is recorded: `list` and `inspect`.

use msb_sync::error::Error;
use msb_sync::sync::{Failure, InspectedImage, Session};

use crate::args::Inspect;
use crate::text::{now, plural};
use crate::{Exit, Output, human, json};

/// What a mount option may take, by mount(2): a page, with its final zero.
const MOUNT_LIMIT: usize = 4095;

pub(crate) fn list(session: &Session, output: &Output) -> Result<Exit, Failure> {
    let images = session.list()?;
    if output.json {
        output.document(&json::list(&images));
    } else if !output.quiet {
        output.result(&human::list(&images, now(), output.style));
    }
    Ok(Exit::Done)
}

pub(crate) fn inspect(session: &Session, output: &Output, args: &Inspect) -> Result<Exit, Failure> {
    let reference = session.reference(&args.reference)?;
    let Some(image) = session.inspect(&reference)? else {
        return Err(Failure::Error(Error::Usage {
            message: format!("{reference}: not recorded on this machine"),
            hint: Some("show what is: msb-sync list; or fetch it: msb-sync pull".to_owned()),
        }));
    };
    if args.rootfs {
        return rootfs(&image, output);
    }
    if output.json {
        output.document(&json::inspect(&image));
    } else if !output.quiet {
        output.result(&human::inspect(&image, now(), output.style));
    }
    Ok(Exit::Done)
}

/// Prints the directories of an image that is all here.
fn rootfs(image: &InspectedImage, output: &Output) -> Result<Exit, Failure> {
    let (listed, reference) = (&image.listed, &image.listed.image.reference);
    let failed = |message: String, hint: &str| {
        Err(Failure::Error(Error::Usage {
            message,
            hint: Some(hint.to_owned()).filter(|hint| !hint.is_empty()),
        }))
    };
    if let Some(layer) = listed.absent().next() {
        let hint = if listed.is_foreign() {
            "let microsandbox pull it again"
        } else {
            "fetch it again: msb-sync apply, or msb-sync verify --repair"
        };
        return failed(format!("{reference}: layer {} is not complete on disk", layer.digest), hint);
    }
    let directories = listed.rootfs();
    if directories.is_empty() {
        return failed(format!("{reference} has no layers"), "");
    }
    if output.json {
        output.document(&json::rootfs(&directories));
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
                let message = format!("no mount option can name {}", path.display());
                return failed(message, "move the layers to a path without quotes and control characters");
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
