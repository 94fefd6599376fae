//! How words of the wire become enums of ours.

/// An enum of ours beside one of the wire, whose first value stands for "not given".
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident of $wire:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            #[allow(dead_code, reason = "some are only sent, some only received")]
            pub(crate) fn from_wire(wire: v1::$wire) -> Option<Self> {
                match wire {
                    v1::$wire::Unspecified => None,
                    $(v1::$wire::$variant => Some(Self::$variant),)+
                    #[allow(unreachable_patterns, reason = "not every enum has values that this client leaves out")]
                    _ => None,
                }
            }

            #[allow(dead_code, reason = "some are only sent, some only received")]
            pub(crate) fn to_wire(value: Option<Self>) -> i32 {
                match value {
                    None => v1::$wire::Unspecified.into(),
                    $(Some(Self::$variant) => v1::$wire::$variant.into(),)+
                }
            }

            /// Its name, stable for programs.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
pub(crate) use wire_enum;
