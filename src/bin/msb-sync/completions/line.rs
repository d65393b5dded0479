//! A command line as far as it is written: the command, and the place that the last word is in.

use std::ffi::OsString;

use clap::{Arg, Command};

/// The words before the one that is being written, understood.
pub(super) struct Line<'c> {
    /// The command that they name, or the whole program.
    pub(super) command: &'c Command,
    /// A command may follow.
    pub(super) takes_command: bool,
    /// The option whose value comes next.
    option: Option<&'c Arg>,
    /// Words that are neither options nor values of such.
    positionals: usize,
    /// `--` was there: no options follow.
    is_escaped: bool,
}

/// The place of a word.
pub(super) enum Place<'c, 'w> {
    /// The value of an option; the front of the word names the option.
    Value { argument: &'c Arg, front: &'w str },
    /// An option.
    Option,
    /// A command, an argument, or one more value of an option that may have any number of them.
    Word { argument: Option<&'c Arg>, option: Option<&'c Arg> },
}

impl<'c> Line<'c> {
    /// Reads `words`, the first of which is the program's name.
    pub(super) fn read(program: &'c Command, words: &[OsString]) -> Self {
        let mut line =
            Self { command: program, takes_command: true, option: None, positionals: 0, is_escaped: false };
        for word in words.iter().skip(1) {
            line.take(word.to_str().unwrap_or_default());
        }
        line
    }

    fn take(&mut self, word: &str) {
        let is_option = !self.is_escaped && word.len() > 1 && word.starts_with('-');
        if let Some(option) = self.option.filter(|option| !is_option || !is_optional(option)) {
            // An option with any number of values takes the next word too.
            self.option = Some(option).filter(|option| is_optional(option));
        } else if is_option && word == "--" {
            (self.is_escaped, self.option) = (true, None);
        } else if is_option {
            self.option = self.awaits(word);
        } else if let Some(command) = self.command.find_subcommand(word).filter(|_| self.takes_command) {
            (self.command, self.positionals) = (command, 0);
            self.takes_command = command.has_subcommands();
        } else {
            self.positionals += 1;
            self.takes_command = false;
        }
    }

    /// The option of `word` whose value is the next one.
    fn awaits(&self, word: &str) -> Option<&'c Arg> {
        if let Some(name) = word.strip_prefix("--") {
            return self.long(name).filter(|option| option.get_action().takes_values());
        }
        // Of letters in a row, the first that takes a value has the rest for it.
        let mut letters = word.chars().skip(1);
        let valued = letters.find_map(|letter| {
            let mut options = self.command.get_arguments();
            options.find(|option| option.get_short() == Some(letter) && option.get_action().takes_values())
        });
        valued.filter(|_| letters.next().is_none())
    }

    fn long(&self, name: &str) -> Option<&'c Arg> {
        self.command.get_arguments().find(|option| option.get_long() == Some(name))
    }

    /// The place of the word that comes next.
    pub(super) fn place<'w>(&self, word: &'w str) -> Place<'c, 'w> {
        let is_option = !self.is_escaped && word.starts_with('-');
        match self.option {
            Some(argument) if !is_optional(argument) => return Place::Value { argument, front: "" },
            _ => {}
        }
        if is_option {
            let named =
                word.find('=').and_then(|end| Some((self.long(word[..end].strip_prefix("--")?)?, end)));
            return match named {
                Some((argument, end)) => Place::Value { argument, front: &word[..=end] },
                None => Place::Option,
            };
        }
        let arguments: Vec<&Arg> = self.command.get_positionals().collect();
        let argument = arguments.get(self.positionals).copied();
        // The last one may stand for many.
        let is_many = |last: &&Arg| last.get_num_args().is_some_and(|range| range.max_values() > 1);
        let many = || arguments.last().copied().filter(is_many);
        Place::Word { argument: argument.or_else(many), option: self.option }
    }
}

/// The option may do without a value, and has any number of them.
fn is_optional(option: &Arg) -> bool {
    option.get_num_args().is_some_and(|range| range.min_values() == 0)
}
