//! A document that is written while it is made: the elements of its long lists are there one at a
//! time, however many images there are.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::{Serialize, Serializer};
use serde_json::Value;

/// A JSON object with the keys in their order.
pub(crate) struct Document<'d>(BTreeMap<String, Field<'d>>);

enum Field<'d> {
    Value(Value),
    /// The elements are taken when the list is written; there is nothing to write twice.
    List(RefCell<Box<dyn Iterator<Item = Value> + 'd>>),
}

impl From<Value> for Document<'_> {
    /// Takes the fields of an object.
    fn from(object: Value) -> Self {
        let fields = match object {
            Value::Object(fields) => fields,
            _ => serde_json::Map::new(),
        };
        Self(fields.into_iter().map(|(key, value)| (key, Field::Value(value))).collect())
    }
}

impl<'d> Document<'d> {
    /// Adds a long list.
    pub(super) fn with(mut self, key: &str, elements: impl Iterator<Item = Value> + 'd) -> Self {
        self.0.insert(key.to_owned(), Field::List(RefCell::new(Box::new(elements))));
        self
    }

    /// Writes the document, which is more than one line, and ends the last one.
    ///
    /// # Errors
    /// Those of `to`.
    pub(crate) fn write(self, to: &mut dyn Write) -> io::Result<()> {
        let mut to = io::BufWriter::with_capacity(64 * 1024, to);
        serde_json::to_writer_pretty(&mut to, &self.0)?;
        to.write_all(b"\n")?;
        to.flush()
    }
}

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(serializer),
            Self::List(elements) => serializer.collect_seq(&mut **elements.borrow_mut()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_reads_as_if_it_had_been_there_whole() {
        let list = || (0..3).map(|number| json!({ "number": number }));
        let document = Document::from(json!({ "version": 1, "a": null }));
        let mut written = Vec::new();
        document.with("list", list()).with("empty", std::iter::empty()).write(&mut written).unwrap();
        let whole = json!({ "version": 1, "a": null, "list": list().collect::<Vec<_>>(), "empty": [] });
        assert_eq!(String::from_utf8(written).unwrap(), format!("{whole:#}\n"));
    }

    #[test]
    fn elements_are_written_before_all_of_them_are_made() {
        struct Counted<'c>(&'c std::cell::Cell<usize>);
        impl Write for Counted<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.set(self.0.get() + bytes.len());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let written = std::cell::Cell::new(0);
        let mut least = usize::MAX;
        let elements = (0..100_000).map(|number| {
            if number == 50_000 {
                least = written.get();
            }
            json!(number)
        });
        Document::from(json!({})).with("list", elements).write(&mut Counted(&written)).unwrap();
        assert!(least > 50_000 * 5 && least < written.get(), "{least} of {}", written.get());
    }
}
