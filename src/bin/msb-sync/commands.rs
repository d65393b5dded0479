//! The commands: each file turns arguments into one call of the library and prints what comes back.

mod apply;
mod df;
mod diff;
mod edit;
mod export;
mod forget;
mod history;
mod init;
mod inspect;
mod list;
mod lock;
mod manual;
mod outdated;
mod plan;
mod prune;
mod pull;
mod rollback;
mod trust_root;
mod verify;
mod watch;

use std::path::Path;
use std::sync::Arc;

use msb_sync::cancel::Cancel;
use msb_sync::image_ref::ImageRef;
use msb_sync::progress::RequestDetail;
use msb_sync::sync::{ImagesSource, Request, Session, VerbError};

use crate::args::{Cli, Command, Described, Lock, Plan, Target};
use crate::exit::Exit;
use crate::output::Output;
use crate::{completions, environment, json};

/// Carries out the command of `cli`, and prints why where that fails.
pub(crate) fn run(cli: &Cli, output: &Arc<Output>, cancel: Cancel) -> Exit {
    dispatch(cli, output, cancel).unwrap_or_else(|failure| {
        let exit = output.failure(&failure);
        // Where 2 means that changes are pending, a wrong file is told apart.
        let two_is_taken = matches!(
            cli.command,
            Command::Plan(Plan { detailed_exitcode: true, .. }) | Command::Lock(Lock { check: true, .. })
        );
        if two_is_taken && exit == Exit::Usage { Exit::Failed } else { exit }
    })
}

fn dispatch(cli: &Cli, output: &Arc<Output>, cancel: Cancel) -> Result<Exit, VerbError> {
    let session = || session(cli, output, cancel);
    match &cli.command {
        Command::Apply(args) if args.dry_run => {
            plan::run(&args.target, args.from.as_deref(), false, &session()?, output)
        }
        Command::Apply(args) if args.watch => {
            watch::run(request(&args.target, None, args.hooks), None, None, session()?, output)
        }
        Command::Apply(args) => apply::run(args, &session()?, output),
        Command::Plan(args) => {
            plan::run(&args.target, args.from.as_deref(), args.detailed_exitcode, &session()?, output)
        }
        Command::Watch(args) => {
            let request = request(&args.target, None, args.hooks);
            watch::run(request, args.metrics.clone(), args.poll, session()?, output)
        }
        Command::Lock(args) => lock::run(args, &session()?, output),
        Command::Diff(args) => diff::run(args, &session()?, output),
        Command::Pull(args) => pull::run(args, &session()?, output),
        Command::Export(args) => export::run(args, &session()?, output),
        Command::List(args) => list::run(args, &session()?, output),
        Command::Df => df::run(&session()?, output),
        Command::Outdated { file } => outdated::run(file, &session()?, output),
        Command::Inspect(args) => inspect::run(args, &session()?, output),
        Command::History(args) => history::run(args, &session()?, output),
        Command::Rollback(args) => rollback::run(args, &session()?, output),
        Command::Verify(args) => verify::run(args, &session()?, output),
        Command::Prune(args) => prune::run(args, &session()?, output),
        Command::Forget(args) => forget::run(args, &session()?, output),
        Command::Add(args) => edit::add(args, &session()?, output),
        Command::Remove(args) => edit::remove(args, &session()?, output),
        Command::TrustRoot { file } => trust_root::run(file.as_deref(), &session()?, output),
        Command::Init => init::run(output),
        Command::Schema { what } => {
            output.result(match what {
                None => msb_sync::sync::json_schema(),
                Some(Described::Output) => json::SCHEMA,
            });
            Ok(Exit::Done)
        }
        Command::Completions { shell } => {
            output.result(&completions::script(*shell));
            Ok(Exit::Done)
        }
        Command::Man { output: directory } => Ok(manual::run(directory.as_deref(), output)),
    }
}

/// The session that the global options and the environment describe.
fn session(cli: &Cli, output: &Output, cancel: Cancel) -> Result<Session, VerbError> {
    let verb = cli.command.verb();
    Ok(Session {
        jobs: cli.global.jobs.map(Into::into),
        untrusted: cli.command.is_untrusted(),
        verb: verb.to_owned(),
        reporter: output.reporter(verb),
        requests: match cli.global.verbose {
            0 => RequestDetail::Statuses,
            1 => RequestDetail::Exchanges,
            _ => RequestDetail::Headers,
        },
        cancel,
        ..environment::session(cli.global.home.clone())?
    })
}

/// The request for the images that `target` names, from a bundle if there is one, with `hooks` or
/// without.
fn request(target: &Target, from: Option<&Path>, hooks: bool) -> Request {
    Request {
        source: images_source(&target.file),
        groups: target.group.clone(),
        prune: target.prune,
        allow_empty: target.allow_empty,
        offline: target.offline,
        locked: target.locked,
        from: from.map(Path::to_owned),
        hooks,
        now: Vec::new(),
        stage: false,
    }
}

/// The images file that FILE names; `-` is standard input.
fn images_source(file: &Path) -> ImagesSource {
    if file == Path::new("-") { ImagesSource::Stdin } else { ImagesSource::Path(file.to_owned()) }
}

/// The references that a command line gives.
fn references(session: &Session, texts: &[String]) -> Result<Vec<ImageRef>, VerbError> {
    texts.iter().map(|text| session.reference(text)).collect()
}
