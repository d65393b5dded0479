//! The role of a site, and the capabilities of a mirror, as containerd's hosts have them.

/// A kind of question that a site may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capability {
    /// The bytes of a digest, which prove themselves whoever serves them.
    Pull,
    /// The meaning of a tag.
    Resolve,
    /// The tags that there are. A cache that knows only some must not be asked: a tag that it does
    /// not list would be taken for gone.
    List,
}

/// A set of capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capabilities(u8);

impl Capabilities {
    /// Nothing at all.
    pub(super) const NONE: Self = Self(0);
    /// Bytes alone.
    pub(super) const PULL: Self = Self::NONE.and(Capability::Pull);

    /// Adds `more`.
    pub(super) const fn and(self, more: Capability) -> Self {
        Self(self.0 | 1 << more as u8)
    }

    /// Tells whether `wanted` is in the set.
    pub(super) const fn has(self, wanted: Capability) -> bool {
        self.0 & 1 << wanted as u8 != 0
    }
}

/// The place of a site among those of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The registry itself: asked last, for everything, with credentials. Its failure is the one
    /// that counts.
    Registry,
    /// A hosts file's `server` on another host, in the registry's place but without its
    /// credentials.
    Substitute,
    /// A mirror, which is asked first for what it is capable of, and never gets credentials.
    Mirror(Capabilities),
}

impl Role {
    /// Tells whether a site of this role is asked for `wanted`.
    pub(super) fn may(self, wanted: Capability) -> bool {
        match self {
            Self::Registry | Self::Substitute => true,
            Self::Mirror(capabilities) => capabilities.has(wanted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_may_what_it_is_capable_of_and_the_registry_everything() {
        let all = [Capability::Pull, Capability::Resolve, Capability::List];
        for role in [Role::Registry, Role::Substitute] {
            assert!(all.iter().all(|wanted| role.may(*wanted)));
        }
        let mirror = |capabilities| all.map(|wanted| Role::Mirror(capabilities).may(wanted));
        assert_eq!(mirror(Capabilities::NONE), [false, false, false]);
        assert_eq!(mirror(Capabilities::PULL), [true, false, false]);
        assert_eq!(mirror(Capabilities::PULL.and(Capability::Resolve)), [true, true, false]);
        assert_eq!(mirror(Capabilities::PULL.and(Capability::List)), [true, false, true]);
    }
}
