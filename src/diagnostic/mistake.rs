//! Mistakes as a reader notes them, while it reads on: one run reports everything.

use super::span::Span;

/// Mistakes beyond this many are counted, not kept.
const MAX_KEPT: usize = 500;

/// A mistake that is not yet set in lines and columns.
#[derive(Debug)]
pub(crate) struct Mistake {
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) hint: Option<String>,
    pub(super) related: Option<(Span, &'static str)>,
}

impl Mistake {
    /// Says in `message` what is wrong at `span`.
    pub(crate) fn new(span: impl Into<Span>, message: impl Into<String>) -> Self {
        Self { span: span.into(), message: message.into(), hint: None, related: None }
    }

    /// Adds the next step.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Adds the next step, where there is one.
    pub(crate) fn maybe_hint(self, hint: Option<String>) -> Self {
        Self { hint: hint.or(self.hint), ..self }
    }

    /// Adds a next step to a mistake that has none of its own.
    pub(crate) fn or_hint(self, hint: &str) -> Self {
        Self { hint: self.hint.or_else(|| Some(hint.to_owned())), ..self }
    }

    /// Points at a second place, and says `what` is there.
    pub(crate) fn related(self, span: Span, what: &'static str) -> Self {
        Self { related: Some((span, what)), ..self }
    }
}

/// All mistakes that were found so far in one file.
#[derive(Debug, Default)]
pub(crate) struct Mistakes {
    pub(super) errors: Vec<Mistake>,
    /// Errors that were only counted.
    pub(super) not_kept: usize,
    pub(super) warnings: Vec<Mistake>,
}

impl Mistakes {
    /// Notes what stops the run.
    pub(crate) fn error(&mut self, mistake: Mistake) {
        if self.errors.len() < MAX_KEPT {
            self.errors.push(mistake);
        } else {
            self.not_kept += 1;
        }
    }

    /// Notes what is doubtful, and does not stop the run.
    pub(crate) fn warn(&mut self, mistake: Mistake) {
        if self.warnings.len() < MAX_KEPT {
            self.warnings.push(mistake);
        }
    }

    /// Keeps the errors whose place `keep` accepts.
    pub(crate) fn retain_errors(&mut self, keep: impl Fn(Span) -> bool) {
        self.errors.retain(|mistake| keep(mistake.span));
    }
}
