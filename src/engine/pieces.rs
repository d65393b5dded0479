//! The pieces of a program's listing, as they arrive: the elements of a JSON array, or lines. No
//! more than one of them is ever in memory, and that has a bound, too.

/// The bytes of one piece: an image with ten thousand names has less.
const MAX_PIECE: usize = 1 << 20;

/// The form of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One JSON array of objects, or `null`, which stands for an empty one.
    Array,
    /// Lines.
    Lines,
}

/// Cuts a listing into pieces, and hands on each that is whole.
pub(super) struct Pieces<'a> {
    form: Form,
    take: &'a mut (dyn FnMut(&[u8]) -> Result<(), String> + Send),
    /// The piece that has not ended.
    piece: Vec<u8>,
    place: Place,
    /// The first problem. Nothing is read after that.
    problem: Option<String>,
}

/// The place in an array between two bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the array, with so many letters of `null`.
    Before(usize),
    /// Behind the bracket, or a comma, where an element has to come.
    Element { is_first: bool },
    /// In an element, in so many brackets, in a text or not, and there behind a backslash or not.
    Inside { depth: usize, in_text: bool, is_escaped: bool },
    /// Behind an element.
    Behind,
    /// Behind the array.
    End,
}

impl<'a> Pieces<'a> {
    /// Cuts a listing of this form for `take`, whose errors are the listing's.
    pub(super) fn new(form: Form, take: &'a mut (dyn FnMut(&[u8]) -> Result<(), String> + Send)) -> Self {
        Self { form, take, piece: Vec::new(), place: Place::Before(0), problem: None }
    }

    /// Takes more of the listing.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        if self.problem.is_none() {
            let result = match self.form {
                Form::Array => self.add_to_array(bytes),
                Form::Lines => self.add_to_lines(bytes),
            };
            self.problem = result.err();
        }
    }

    /// Ends the listing.
    ///
    /// # Errors
    /// It is not of its form, or a piece is not as it should be.
    pub(super) fn finish(mut self) -> Result<(), String> {
        if let Some(problem) = self.problem.take() {
            return Err(problem);
        }
        match self.form {
            Form::Lines if self.piece.is_empty() => Ok(()),
            Form::Lines => (self.take)(&self.piece),
            Form::Array if matches!(self.place, Place::End) => Ok(()),
            Form::Array => Err("it breaks off".to_owned()),
        }
    }

    /// Adds to the piece that has not ended.
    fn append(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.piece.len() + bytes.len() > MAX_PIECE {
            return Err(format!("one image of more than {} MiB", MAX_PIECE >> 20));
        }
        self.piece.extend_from_slice(bytes);
        Ok(())
    }

    fn end_piece(&mut self) -> Result<(), String> {
        let taken = (self.take)(&self.piece);
        self.piece.clear();
        taken
    }

    fn add_to_lines(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        self.append(lines.next().unwrap_or_default())?;
        for line in lines {
            self.end_piece()?;
            self.append(line)?;
        }
        Ok(())
    }

    fn add_to_array(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut start = 0;
        for (position, byte) in bytes.iter().enumerate() {
            let was_inside = matches!(self.place, Place::Inside { .. });
            self.place = self.place.after(*byte)?;
            match self.place {
                Place::Inside { .. } if !was_inside => start = position,
                Place::Behind if was_inside => {
                    self.append(&bytes[start..=position])?;
                    self.end_piece()?;
                    start = position + 1;
                }
                _ => {}
            }
        }
        if matches!(self.place, Place::Inside { .. }) { self.append(&bytes[start..]) } else { Ok(()) }
    }
}

impl Place {
    /// The place behind `byte`. What is inside of an element is checked by whoever takes it.
    fn after(self, byte: u8) -> Result<Self, String> {
        let is_space = byte.is_ascii_whitespace();
        Ok(match (self, byte) {
            (Self::Inside { depth, in_text: true, is_escaped }, _) => {
                let in_text = is_escaped || byte != b'"';
                Self::Inside { depth, in_text, is_escaped: !is_escaped && byte == b'\\' }
            }
            (Self::Inside { depth, .. }, b'{' | b'[') => Self::inside(depth + 1, false),
            (Self::Inside { depth: 1, .. }, b'}' | b']') => Self::Behind,
            (Self::Inside { depth, .. }, b'}' | b']') => Self::inside(depth - 1, false),
            (Self::Inside { depth, .. }, _) => Self::inside(depth, byte == b'"'),
            (Self::Element { .. }, b'{') => Self::inside(1, false),
            (Self::Before(0), b'[') => Self::Element { is_first: true },
            (Self::Element { is_first: true } | Self::Behind, b']') | (Self::Before(3), b'l') => Self::End,
            (Self::Behind, b',') => Self::Element { is_first: false },
            (Self::Before(letters), _) if b"null".get(letters) == Some(&byte) => Self::Before(letters + 1),
            (Self::Before(0) | Self::Element { .. } | Self::Behind | Self::End, _) if is_space => self,
            _ => return Err("it is no list of images".to_owned()),
        })
    }

    fn inside(depth: usize, in_text: bool) -> Self {
        Self::Inside { depth, in_text, is_escaped: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts `text`, which arrives in pieces of `size` bytes.
    fn cut(form: Form, text: &str, size: usize) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        let mut take = |piece: &[u8]| {
            found.push(String::from_utf8_lossy(piece).into_owned());
            Ok(())
        };
        let mut pieces = Pieces::new(form, &mut take);
        text.as_bytes().chunks(size).for_each(|bytes| pieces.add(bytes));
        pieces.finish()?;
        Ok(found)
    }

    #[test]
    fn elements_are_the_same_however_they_arrive() {
        let text = " [ {\"a\": \"]}\\\"{\", \"b\": [{}, {}]} ,\n{} , {\"c\":\"\\\\\"}]\n ";
        let wanted = ["{\"a\": \"]}\\\"{\", \"b\": [{}, {}]}", "{}", "{\"c\":\"\\\\\"}"];
        for size in [1, 2, 7, 1000] {
            assert_eq!(cut(Form::Array, text, size).unwrap(), wanted, "{size}");
            assert_eq!(cut(Form::Lines, "a b\n\nc", size).unwrap(), ["a b", "", "c"], "{size}");
        }
        for none in ["[]", " [ ] ", "null", " null\n"] {
            assert!(cut(Form::Array, none, 3).unwrap().is_empty(), "{none}");
        }
        assert!(cut(Form::Lines, "", 1).unwrap().is_empty());
    }

    #[test]
    fn other_texts_are_no_lists() {
        for text in ["", "[", "{}", "[1]", "[{}", "[{},]", "[,{}]", "[{} {}]", "[]]", "[] x", "nul", "nulll"]
        {
            for size in [1, 100] {
                assert!(cut(Form::Array, text, size).is_err(), "{text}");
            }
        }
    }

    #[test]
    fn a_piece_has_a_bound() {
        let long = format!("[{{\"a\": \"{}\"}}]", "x".repeat(MAX_PIECE));
        assert_eq!(cut(Form::Array, &long, 4096).unwrap_err(), "one image of more than 1 MiB");
        assert_eq!(cut(Form::Lines, &long, 4096).unwrap_err(), "one image of more than 1 MiB");
    }
}
