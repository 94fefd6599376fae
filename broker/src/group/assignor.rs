//! Who gets which units (rules GM-3, GM-4).
