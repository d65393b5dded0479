//! Tables of mounts as the kernel tells them in `/proc/PID/mountinfo` (proc(5)).

/// A mount of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// The number of the mount, and that of the mount that it is mounted on.
    pub(super) id: u64,
    pub(super) parent: u64,
    /// The file system's `major:minor`.
    pub(super) device: Vec<u8>,
    /// The directory of the file system that is mounted; empty for its top.
    pub(super) root: Vec<u8>,
    /// The mount point, from the top of the namespace; empty for the top.
    pub(super) point: Vec<u8>,
    /// The file system's type.
    pub(super) kind: Vec<u8>,
    /// The file system's own options, still escaped.
    pub(super) options: Vec<u8>,
}

impl Mount {
    /// Reads a line: `id parent device root mount-point options … - type source own-options`.
    /// `above` is where the process that the table belongs to has its root, from the top of the
    /// namespace.
    pub(super) fn parse(line: &[u8], above: &[u8]) -> Option<Self> {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let [id, parent, device, root, point, ..] = fields[..] else { return None };
        let dash = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
        let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
        Some(Self {
            id: number(id)?,
            parent: number(parent)?,
            device: device.to_vec(),
            root: without_slash(unescape(root)),
            point: without_slash([without_slash(above.to_vec()), unescape(point)].concat()),
            kind: fields.get(dash + 1)?.to_vec(),
            options: fields.get(dash + 3).unwrap_or(&&b""[..]).to_vec(),
        })
    }

    /// Finds the path `text` of the namespace in the mounted file system, if it is at or below the
    /// mount point.
    pub(super) fn place_of(&self, text: &[u8]) -> Option<Vec<u8>> {
        Some([&self.root[..], below(text, &self.point)?].concat())
    }

    /// Finds the path at which the namespace has `place` of the mounted file system.
    pub(super) fn text_of(&self, place: &[u8]) -> Option<Vec<u8>> {
        Some([&self.point[..], below(place, &self.root)?].concat())
    }
}

/// Cuts `above` off `path`, which goes on from its slash; empty where they are the same.
pub(super) fn below<'p>(path: &'p [u8], above: &[u8]) -> Option<&'p [u8]> {
    path.strip_prefix(above).filter(|rest| matches!(rest.first(), None | Some(b'/')))
}

fn without_slash(mut path: Vec<u8>) -> Vec<u8> {
    while path.last() == Some(&b'/') {
        path.pop();
    }
    path
}

/// Reads escapes in octal, `\040` for a space: white space, backslashes and, in options, commas
/// have them.
pub(super) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| first == b'\\').and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        out.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_its_escapes_and_optional_fields() {
        let line = br"66 43 254:0 /a\040b /x\134y rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard";
        let mount = Mount::parse(line, b"/").unwrap();
        assert_eq!((mount.id, mount.parent, &mount.device[..]), (66, 43, &b"254:0"[..]));
        assert_eq!((&mount.root[..], &mount.point[..]), (&b"/a b"[..], &br"/x\y"[..]));
        assert_eq!((&mount.kind[..], &mount.options[..]), (&b"ext4"[..], &b"rw,discard"[..]));
        assert_eq!(mount.place_of(br"/x\y/z").unwrap(), b"/a b/z");
        assert_eq!(mount.place_of(br"/x\yz"), None);
        assert_eq!(mount.text_of(b"/a b").unwrap(), br"/x\y");
        assert_eq!(mount.text_of(b"/a"), None);
        let top = Mount::parse(b"1 0 254:0 / / rw - ext4  rw", b"/jail").unwrap();
        assert_eq!((&top.root[..], &top.point[..], &top.options[..]), (&b""[..], &b"/jail"[..], &b"rw"[..]));
        assert_eq!(top.place_of(b"/jail/etc").unwrap(), b"/etc");
        for broken in [&b""[..], b"1 2 3", b"1 2 0:1 / / rw ext4 x rw", b"x 2 0:1 / / rw - ext4 x rw"] {
            assert_eq!(Mount::parse(broken, b"/"), None);
        }
    }
}
