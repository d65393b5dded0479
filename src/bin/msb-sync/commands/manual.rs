//! `man`: prints the manual page, or writes one for each command.

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory;

use crate::args::Cli;
use crate::exit::Exit;
use crate::output::Output;

/// Prints the manual page, or writes all pages into `directory`.
pub(super) fn run(directory: Option<&Path>, output: &Output) -> Exit {
    let mut page = Vec::new();
    let done = render(&mut page).and_then(|()| match directory {
        Some(directory) => write_all(&page, directory),
        None => Ok(String::from_utf8_lossy(&page).into_owned()),
    });
    match done {
        Ok(text) => {
            output.result(&text);
            Exit::Done
        }
        Err(error) => {
            let into = directory.map(|directory| format!(" into {}", directory.display()));
            let message = format!("cannot write the manual{}", into.unwrap_or_default());
            output.error(&message, &[error.to_string()], None);
            Exit::Failed
        }
    }
}

/// Writes a page for each command, and the `page` of the program, into `directory`. Returns the
/// names of their files, one a line.
fn write_all(page: &[u8], directory: &Path) -> io::Result<String> {
    fs::create_dir_all(directory)?;
    let program = Cli::command().disable_help_subcommand(true);
    let shown = program.get_subcommands().filter(|command| !command.is_hide_set());
    let names: Vec<String> = shown.map(|command| format!("msb-sync-{}.1\n", command.get_name())).collect();
    clap_mangen::generate_to(program, directory)?;
    fs::write(directory.join("msb-sync.1"), page)?;
    Ok(format!("msb-sync.1\n{}", names.concat()))
}

/// Renders one page: the program, each command with its options, and what surrounds them.
fn render(page: &mut Vec<u8>) -> io::Result<()> {
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
    for (title, entries) in SECTIONS {
        page.extend_from_slice(format!(".SH \"{title}\"\n").as_bytes());
        for (name, text) in *entries {
            page.extend_from_slice(format!(".TP\n.B \"{}\"\n{}\n", roff(name), roff(text)).as_bytes());
        }
    }
    page.extend_from_slice(b".SH \"SEE ALSO\"\n.BR docker (1),\n.BR podman (1),\n.BR skopeo (1)\n");
    Ok(())
}

/// The sections after those that clap knows: titles, and entries of a name and its text.
const SECTIONS: &[(&str, &[(&str, &str)])] =
    &[("EXIT STATUS", EXIT_STATUS), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES), ("EXAMPLES", EXAMPLES)];

const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "Everything is done, or in sync; `plan` also with changes pending."),
    ("1", "At least one image, layer or check failed or is blocked, or --locked does not hold."),
    (
        "2",
        "The command line or the images file is wrong, and nothing was touched. With plan --detailed-exitcode and \
lock --check: changes are pending; a wrong file exits with 1 there.",
    ),
    ("130, 143", "Stopped by SIGINT or SIGTERM; everything finished so far stays."),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    ("MICROSANDBOX_HOME", "The home directory, unless --home names one."),
    ("OCI_REGISTRY_DOMAIN", "The registry of references given without one; default docker.io."),
    (
        "NO_COLOR, TERM",
        "No colours where NO_COLOR is set or TERM is dumb; a dumb terminal gets no bars either.",
    ),
    (
        "DOCKER_CONFIG, REGISTRY_AUTH_FILE, XDG_RUNTIME_DIR, XDG_CONFIG_HOME",
        "Places of the logins that docker login and podman login have stored.",
    ),
    (
        "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY",
        "Proxies to registries, in capitals or small letters, and hosts that are asked directly.",
    ),
    ("SSL_CERT_FILE, SSL_CERT_DIR", "Trusted certificate authorities instead of the system's."),
    ("MSB_SYNC_STALL_TIMEOUT", "Seconds after which a silent registry is given up; default 30."),
    (
        "MSB_SYNC_LOOKUP_PATIENCE",
        "Seconds for which a run waits for slow lookups before it begins with the rest; default 8.",
    ),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "Set by systemd: watch tells it that it is up, and alive."),
];

const FILES: &[(&str, &str)] = &[
    (
        "images.toml",
        "The images file: what this machine is to have. `msb-sync init` writes one to start from.",
    ),
    ("images.lock", "The lockfile beside it, which `msb-sync lock` writes: what its tags meant."),
    ("~/.microsandbox/oci.db", "The catalog of recorded images, shared with microsandbox."),
    ("~/.microsandbox/layers/", "The extracted layers, a directory each."),
    ("~/.microsandbox/blobs/", "Blobs as fetched, an OCI image layout, where they are kept."),
    ("~/.microsandbox/downloads/", "Downloads that the next run goes on with."),
    (
        "~/.microsandbox/registries.toml, /etc/msb-sync/registries.toml",
        "Settings of registries and engines for every images file of this machine; the first one that there is counts.",
    ),
    ("~/.docker/config.json, containers/auth.json", "Stored logins, with their credential helpers."),
];

const EXAMPLES: &[(&str, &str)] = &[
    ("msb-sync init && msb-sync plan", "Write a starter file, and see what it would do."),
    ("msb-sync apply", "Make the machine match ./images.toml."),
    (
        "msb-sync apply --prune production.toml",
        "The same with another file, and remove what it lists no more.",
    ),
    ("msb-sync lock && msb-sync apply --locked", "Pin what the tags mean now, and use exactly that."),
    (
        "msb-sync lock --upgrade docker.io/library/alpine",
        "Take what that image's tags mean now into the lockfile.",
    ),
    ("msb-sync plan --detailed-exitcode", "For scripts: exit with 2 if something is to be done."),
    (
        "msb-sync watch --metrics 9090 /etc/msb-sync/images.toml",
        "Go on applying, with metrics for Prometheus.",
    ),
    ("msb-sync -q list | grep alpine", "The names of recorded images, one a line."),
    (
        "msb-sync inspect --rootfs alpine:3.20",
        "The directories of an image's layers, as overlayfs wants them.",
    ),
    (
        "msb-sync export --output bundle.tar",
        "Everything of the file in one archive, for a machine without a network.",
    ),
];

/// Escapes text for roff: no hyphen becomes a dash, no line a request.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let line =
        |line: &str| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
