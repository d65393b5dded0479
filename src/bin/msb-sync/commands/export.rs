//! `export`: writes a bundle for other engines and for machines without a network.

use std::path::Path;

use msb_sync::sync::{self, ExportOutput, ExportRequest, Session, VerbError};

use crate::args::Export;
use crate::exit::Exit;
use crate::output::Output;
use crate::{human, json};

pub(super) fn run(args: &Export, session: &Session, output: &Output) -> Result<Exit, VerbError> {
    let request = ExportRequest {
        source: super::images_source(&args.file),
        groups: args.groups.clone(),
        images: super::references(session, &args.images)?,
        since: args.since.clone(),
        index: args.index,
        docker: args.docker,
        platform: args.platform.clone(),
        offline: args.offline,
    };
    let to_stream = args.output == Path::new("-");
    let exported = if to_stream {
        sync::export(session, &request, ExportOutput::StandardOutput)?
    } else {
        sync::export(session, &request, ExportOutput::Path(args.output.clone()))?
    };
    output.human.clear();
    output.human.image_errors(exported.failed.iter().map(|(image, error)| (image, &**error)));
    if to_stream {
        // The result is the bundle: its summary goes where people look.
        human::exported(&exported, &args.output).lines().for_each(|line| output.human.note(line));
    } else {
        output.either(|| json::exported(&exported), || human::exported(&exported, &args.output));
    }
    Ok(if exported.failed.is_empty() { Exit::Done } else { Exit::Failed })
}
