//! The command line of msb-sync: a thin layer over the library.
//!
//! Parses arguments, hands one verb to [`msb_sync::sync::Session`] and prints what comes back, for people
//! (`human`) or for machines (`json`). Results go to stdout, everything else to stderr.

mod args;
mod human;
mod json;
mod live;
mod look;
mod text;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};
use msb_sync::cancel::Cancel;
use msb_sync::error::Error;
use msb_sync::image_ref::ImageRef;
use msb_sync::progress::Reporter;
use msb_sync::registry::{Environment, Rests};
use msb_sync::state::Action;
use msb_sync::sync::{
    self, Applied, ImagesSource, LockRequest, PruneRequest, Pruned, PullRequest, Request, Session, Upgrade,
    VerbError,
};

use args::{Cli, Command, Global, Lock, Plan, Selection, When};
use text::Style;

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Done, or in sync; `plan` also with changes pending.
    Done,
    /// At least one image, layer or check failed or is blocked.
    Failed,
    /// The command line or the images file is wrong: nothing was touched.
    Usage,
    /// `plan --detailed-exitcode`, `lock --check`: changes are pending.
    Pending,
    /// Stopped by this signal.
    Signal(i32),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage | Exit::Pending => 2,
            Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(1),
        }
        .into()
    }
}

/// The signal that stopped this run, or 0.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// After a signal, a run has this long to end by itself; everything is safe to be killed at any time.
const GRACE: Duration = Duration::from_millis(700);

fn main() -> ExitCode {
    msb_sync::sys::limit_allocator_arenas();
    msb_sync::sys::raise_open_files_limit();
    // Handled, not ignored: the programs that we start do not inherit handlers. Without one a file that outgrows the
    // limit (ulimit -f) kills the process, with one the write fails, with words. If it cannot be set, so be it.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
    let cli = Cli::parse();
    let output = Output::new(&cli.global);
    let cancel = Cancel::new();
    if let Err(error) = watch_signals(cancel.clone(), Arc::clone(&output.human)) {
        output.error("cannot watch for signals", &[error.to_string()], None);
        return Exit::Failed.into();
    }
    let exit = run(&cli, &output, cancel);
    output.human.clear();
    let exit = if text::output_lost() {
        output.error("cannot write the whole result to standard output", &[], None);
        Exit::Failed
    } else {
        exit
    };
    match (SIGNAL.load(Ordering::SeqCst), exit) {
        (0, exit) => exit.into(),
        (signal, _) => {
            if cli.command.watches() {
                // That is how it ends.
                output.human.note("stopped");
            } else {
                output.human.stopped();
            }
            Exit::Signal(signal).into()
        }
    }
}

/// Turns SIGINT and SIGTERM into the stop switch; a second one, or no end within [`GRACE`], ends the process.
fn watch_signals(cancel: Cancel, human: Arc<human::Human>) -> io::Result<()> {
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if SIGNAL.swap(signal, Ordering::SeqCst) != 0 {
                std::process::exit(128 + signal);
            }
            cancel.cancel();
            let human = Arc::clone(&human);
            // Without a thread to spare, a second signal still ends it.
            let _ = std::thread::Builder::new().spawn(move || {
                std::thread::sleep(GRACE);
                human.clear();
                human.stopped();
                std::process::exit(128 + signal);
            });
        }
    })?;
    Ok(())
}

/// Where results and everything else go, and in which form.
struct Output {
    json: bool,
    quiet: bool,
    style: Style,
    human: Arc<human::Human>,
}

impl Output {
    fn new(global: &Global) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colored = |terminal: bool| match global.color {
            When::Always => true,
            When::Never => false,
            When::Auto => terminal && !no_color,
        };
        let errors = Style::new(colored(io::stderr().is_terminal()));
        let terminal = io::stderr().is_terminal();
        let progress = match global.progress {
            _ if global.quiet => human::Progress::Off,
            When::Always if terminal => human::Progress::bars(),
            When::Always => human::Progress::lines(),
            When::Auto if terminal && !global.json => human::Progress::bars(),
            When::Auto | When::Never => human::Progress::Off,
        };
        Self {
            json: global.json,
            quiet: global.quiet,
            style: Style::new(colored(io::stdout().is_terminal())),
            human: Arc::new(human::Human::new(global.quiet, global.verbose, global.json, progress, errors)),
        }
    }

    /// Who listens to `verb`: with `--json` those that print events, the others one document at their end.
    fn reporter(&self, verb: &str) -> Arc<dyn Reporter> {
        if self.json && matches!(verb, "apply" | "pull") {
            Arc::new(json::Events::new(Arc::clone(&self.human)))
        } else {
            Arc::clone(&self.human) as _
        }
    }

    /// Prints a result.
    fn result(&self, text: &str) {
        self.human.suspend(|| text::print(text));
    }

    fn document(&self, value: &serde_json::Value) {
        self.result(&format!("{value:#}\n"));
    }

    fn error(&self, message: &str, causes: &[String], hint: Option<&str>) {
        self.human.error(message, causes, hint);
    }

    /// Prints why a verb failed.
    fn failure(&self, failure: &VerbError) -> Exit {
        match failure {
            VerbError::Problems(problems) => {
                self.human.lines(&problems.to_string());
                Exit::Usage
            }
            VerbError::Lockfile(problem) => {
                self.human.lines(&problem.to_string());
                Exit::Usage
            }
            VerbError::Error(Error::Stopped) => Exit::Failed,
            VerbError::Error(error) | VerbError::Input(error) => {
                let mut chain = error.chain();
                let message = chain.remove(0);
                self.error(&message, &chain, error.hint().as_deref());
                if matches!(failure, VerbError::Input(_)) { Exit::Usage } else { Exit::Failed }
            }
        }
    }
}

fn run(cli: &Cli, output: &Output, cancel: Cancel) -> Exit {
    let verb = match &cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "msb-sync", &mut script);
            output.result(&String::from_utf8_lossy(&script));
            return Exit::Done;
        }
        Command::Man => return manual(output),
        Command::Schema => {
            output.result(msb_sync::images_file::json_schema());
            return Exit::Done;
        }
        Command::Watch(_) => "watch",
        Command::Apply(_) if cli.command.watches() => "watch",
        Command::Apply(_) => "apply",
        Command::Plan(_) => "plan",
        Command::Lock(_) => "lock",
        Command::Pull(_) => "pull",
        Command::List => "list",
        Command::Inspect(_) => "inspect",
        Command::Verify(_) => "verify",
        Command::Prune(_) => "prune",
        Command::Forget(_) => "forget",
        Command::Remove(_) => return removed_command(output),
        Command::Init => return init(output).unwrap_or_else(|failure| output.failure(&failure)),
    };
    let session = match session(&cli.global, verb, output, cancel) {
        Ok(session) => Session { untrusted: cli.command.is_untrusted(), ..session },
        Err(message) => {
            output.error(&message, &[], Some("say where with --home DIR"));
            return Exit::Usage;
        }
    };
    let result = match &cli.command {
        Command::Apply(apply) if apply.dry_run => plan(&session, output, &apply.selection, false),
        Command::Apply(apply) if apply.watch => {
            live::watch(session, output, request(&apply.selection), None, None)
        }
        Command::Watch(args) => {
            live::watch(session, output, request(&args.selection), args.metrics.clone(), args.poll)
        }
        Command::Apply(apply) => {
            let started = Instant::now();
            sync::apply(&session, &request(&apply.selection))
                .map(|applied| show_applied(&applied, started, output, &cli.global))
        }
        Command::Plan(args) => plan(&session, output, &args.selection, args.detailed_exitcode),
        Command::Lock(args) => lock(&session, output, args),
        Command::Pull(args) => pull(&session, output, args, &cli.global),
        Command::List => look::list(&session, output),
        Command::Inspect(args) => look::inspect(&session, output, args),
        Command::Verify(args) => verify(&session, output, args),
        Command::Prune(args) => {
            let (dry_run, allow_empty) = (args.dry_run, args.allow_empty);
            let request = PruneRequest { source: images_source(&args.file), dry_run, allow_empty };
            sync::prune(&session, &request).map(|pruned| show_pruned(&pruned, output))
        }
        Command::Forget(args) => forget(&session, output, args),
        Command::Init | Command::Schema | Command::Completions { .. } | Command::Man | Command::Remove(_) => {
            Ok(Exit::Done)
        }
    };
    result.unwrap_or_else(|failure| {
        let exit = output.failure(&failure);
        match &cli.command {
            // Where 2 means that changes are pending, a wrong file must be told apart.
            Command::Plan(Plan { detailed_exitcode: true, .. }) | Command::Lock(Lock { check: true, .. })
                if exit == Exit::Usage =>
            {
                Exit::Failed
            }
            _ => exit,
        }
    })
}

fn session(global: &Global, verb: &str, output: &Output, cancel: Cancel) -> Result<Session, String> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let user_home = variable("HOME").map(PathBuf::from);
    let home = global.home.clone().or_else(|| variable("MICROSANDBOX_HOME").map(PathBuf::from));
    let home = match (home, &user_home) {
        (Some(home), _) => home,
        (None, Some(home)) => home.join(".microsandbox"),
        (None, None) => return Err("there is no home directory: HOME is not set".to_owned()),
    };
    let home =
        std::path::absolute(&home).map_err(|error| format!("cannot use {}: {error}", home.display()))?;
    Ok(Session {
        home,
        user_home,
        environment: Environment::from_process(),
        default_registry: variable("OCI_REGISTRY_DOMAIN")
            .map(|value| value.to_string_lossy().into_owned())
            .unwrap_or_default(),
        jobs: global.jobs.map(Into::into),
        untrusted: false,
        verb: verb.to_owned(),
        reporter: output.reporter(verb),
        cancel,
        rests: Rests::default(),
    })
}

fn request(selection: &Selection) -> Request {
    Request {
        source: images_source(&selection.file),
        groups: selection.group.clone(),
        prune: selection.prune,
        allow_empty: selection.allow_empty,
        offline: selection.offline,
        locked: selection.locked,
    }
}

fn lock(session: &Session, output: &Output, args: &Lock) -> Result<Exit, VerbError> {
    let (file, upgrade) = args.split();
    let upgrade = match upgrade {
        None => Upgrade::Nothing,
        Some(references) if references.is_empty() => Upgrade::Everything,
        Some(references) => {
            let named = references.iter().map(|text| session.reference_or_repository(text));
            Upgrade::These(named.collect::<Result<_, _>>()?)
        }
    };
    let request = LockRequest { source: images_source(file), upgrade, check: args.check };
    let relocked = sync::lock(session, &request)?;
    output.human.clear();
    if output.json {
        output.document(&json::relocked(&relocked));
    } else if !output.quiet {
        output.result(&human::relocked(&relocked, args.check, output.style));
    }
    for (reference, _, error) in &relocked.failed {
        output.human.image_error(reference, Some(error));
    }
    Ok(match (relocked.failed.is_empty(), relocked.changed && args.check) {
        (false, _) => Exit::Failed,
        (true, true) => Exit::Pending,
        (true, false) => Exit::Done,
    })
}

fn images_source(file: &Path) -> ImagesSource {
    if file == Path::new("-") { ImagesSource::Stdin } else { ImagesSource::Path(file.to_owned()) }
}

fn plan(
    session: &Session,
    output: &Output,
    selection: &Selection,
    detailed: bool,
) -> Result<Exit, VerbError> {
    let (plan, platform) = sync::plan(session, &request(selection))?;
    if output.json {
        output.document(&json::plan(&plan));
    } else if !output.quiet {
        output.human.clear();
        output.result(&human::plan(&plan, &selection.file, &platform, output.style));
    }
    let blocked = plan.count(Action::Blocked) > 0;
    if !output.json {
        // The table has each message; what follows it is what the table has no room for.
        let says_more = |error: &Error| output.quiet || error.hint().is_some() || error.chain().len() > 1;
        for image in &plan.images {
            let error = image.error.as_deref().filter(|error| says_more(error));
            output.human.image_error(&image.reference, error);
        }
    }
    Ok(match (blocked, plan.changes() > 0 && detailed) {
        (true, _) => Exit::Failed,
        (false, true) => Exit::Pending,
        (false, false) => Exit::Done,
    })
}

fn show_applied(applied: &Applied, started: Instant, output: &Output, global: &Global) -> Exit {
    let elapsed = started.elapsed();
    output.human.clear();
    if output.json {
        output.result(&format!("{}\n", json::summary(applied, elapsed)));
    } else if !output.quiet {
        let next = human::Next { home: global.home.as_deref() };
        output.result(&human::summary(applied, elapsed, &next, output.style));
    }
    if let Some(failure) = &applied.outcome.failure {
        output.human.failure(failure);
    }
    if applied.succeeded() { Exit::Done } else { Exit::Failed }
}

fn pull(session: &Session, output: &Output, args: &args::Pull, global: &Global) -> Result<Exit, VerbError> {
    let started = Instant::now();
    let (groups, references): (Vec<String>, Vec<String>) =
        args.references.iter().cloned().partition(|text| text.starts_with('@'));
    let default = (!groups.is_empty()).then_some(Path::new(args::DEFAULT_FILE));
    let request = PullRequest {
        references: self::references(session, &references)?,
        groups,
        file: args.file.as_deref().or(default).map(images_source),
        platform: args.platform.clone(),
    };
    let applied = sync::pull(session, &request)?;
    Ok(show_applied(&applied, started, output, global))
}

fn verify(session: &Session, output: &Output, args: &args::Verify) -> Result<Exit, VerbError> {
    let verified = sync::verify(session, &references(session, &args.references)?, args.repair)?;
    output.human.clear();
    if output.json {
        output.document(&json::verified(&verified));
    } else if !output.quiet {
        output.result(&human::verified(&verified, args.repair, output.human.is_verbose(), output.style));
    }
    Ok(if verified.succeeded() { Exit::Done } else { Exit::Failed })
}

fn forget(session: &Session, output: &Output, args: &args::Forget) -> Result<Exit, VerbError> {
    let pruned = match &args.owner {
        Some(file) => {
            let pruned = sync::forget_owner(session, file, args.dry_run)?;
            if file.exists() {
                let file = file.display();
                output
                    .human
                    .warning(&format!("{file} is still there: its next apply brings back what it lists"));
            }
            pruned
        }
        None => sync::forget(session, &references(session, &args.references)?, args.dry_run)?,
    };
    Ok(show_pruned(&pruned, output))
}

/// A script that still says `remove` must not take anything for done.
fn removed_command(output: &Output) -> Exit {
    let hint = "forget recorded images, with their layers: msb-sync forget REF; or take an image out of the images file, \
and run: msb-sync prune";
    output.error("what `remove` did is called `forget` now", &["nothing was done".to_owned()], Some(hint));
    Exit::Usage
}

fn show_pruned(pruned: &Pruned, output: &Output) -> Exit {
    if output.json {
        output.document(&json::pruned(pruned));
    } else if !output.quiet {
        output.result(&human::pruned(pruned, output.style));
    }
    Exit::Done
}

fn references(session: &Session, texts: &[String]) -> Result<Vec<ImageRef>, VerbError> {
    texts.iter().map(|text| session.reference(text)).collect()
}

fn init(output: &Output) -> Result<Exit, VerbError> {
    let path = Path::new("images.toml");
    sync::init(path)?;
    if !output.quiet {
        output.result("Wrote images.toml. Edit it, then look at what would happen: msb-sync plan\n");
    }
    Ok(Exit::Done)
}

fn manual(output: &Output) -> Exit {
    let mut page = Vec::new();
    match render_manual(&mut page) {
        Ok(()) => {
            output.result(&String::from_utf8_lossy(&page));
            Exit::Done
        }
        Err(error) => {
            output.error("cannot write the manual page", &[error.to_string()], None);
            Exit::Failed
        }
    }
}

/// One page: the program, then each command with its options.
fn render_manual(page: &mut Vec<u8>) -> io::Result<()> {
    let mut program = Cli::command();
    program.build();
    let man = clap_mangen::Man::new(program.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    page.extend_from_slice(b".SH COMMANDS\n");
    let shown = |command: &&clap::Command| command.get_name() != "help" && !command.is_hide_set();
    for command in program.get_subcommands().filter(shown) {
        let own = |argument: &&clap::Arg| !argument.is_global_set() && !argument.is_hide_set();
        let about = command.get_long_about().or(command.get_about());
        page.extend_from_slice(
            format!(".SS {}\n", roff(&format!("msb-sync {}", command.get_name()))).as_bytes(),
        );
        page.extend_from_slice(
            format!("{}\n", roff(&about.map(ToString::to_string).unwrap_or_default())).as_bytes(),
        );
        for argument in command.get_arguments().filter(own).filter(|argument| argument.get_id() != "help") {
            let help = argument.get_long_help().or(argument.get_help());
            let names = argument.to_string();
            let help = help.map(ToString::to_string).unwrap_or_default();
            page.extend_from_slice(format!(".TP\n.B {}\n{}\n", roff(&names), roff(&help)).as_bytes());
        }
    }
    man.render_extra_section(page)
}

/// Text for roff: no hyphen is a dash, no line is a request.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let line =
        |line: &str| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
