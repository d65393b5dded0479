//! `man`: prints the manual page.

use std::io;

use clap::CommandFactory;

use crate::args::Cli;
use crate::exit::Exit;
use crate::output::Output;

/// Prints the manual page.
pub(super) fn run(output: &Output) -> Exit {
    let mut page = Vec::new();
    match render(&mut page) {
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

/// Renders one page: the program, then each command with its options.
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
    man.render_extra_section(page)
}

/// Escapes text for roff: no hyphen becomes a dash, no line a request.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let line =
        |line: &str| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
