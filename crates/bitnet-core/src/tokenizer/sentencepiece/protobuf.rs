//! The part of the protocol-buffer wire format that `tokenizer.model` needs, with every length held against
//! the bytes that are there. Positions in errors are relative to the whole file.
//!
//! A message is a list of fields: a key (field number * 8 + wire type) and a value: 0 varint, 1 eight bytes,
//! 2 a length and that many bytes, 5 four bytes. Types 3 and 4 (groups) are not in use any more.

/// What is wrong with the bytes, and where.
pub(super) struct Damage {
    pub(super) offset: usize,
    pub(super) expected: &'static str,
}

/// A field's value.
pub(super) enum Value<'b> {
    Varint(u64),
    Fixed32(u32),
    Bytes(Message<'b>),
    /// Eight bytes, which no field here uses.
    Fixed64,
}

/// Bytes that are read from the front.
#[derive(Clone, Copy)]
pub(super) struct Message<'b> {
    rest: &'b [u8],
    offset: usize,
}

impl<'b> Message<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Message { rest: bytes, offset: 0 }
    }

    /// Returns what is left.
    pub(super) fn bytes(&self) -> &'b [u8] {
        self.rest
    }

    /// Returns where the rest begins in the file.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// Reads the next field: its number and its value; `None` at the end.
    pub(super) fn field(&mut self) -> Result<Option<(u32, Value<'b>)>, Damage> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let start = self.offset;
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|&number| number > 0);
        let number = number.ok_or(Damage { offset: start, expected: "a field number" })?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let at = self.offset;
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                if length > self.rest.len() {
                    return Err(Damage { offset: at, expected: "a length within its message" });
                }
                let offset = self.offset;
                Value::Bytes(Message { rest: self.take(length)?, offset })
            }
            5 => {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(self.take(4)?);
                Value::Fixed32(u32::from_le_bytes(bytes))
            }
            _ => return Err(Damage { offset: start, expected: "a wire type of 0, 1, 2 or 5" }),
        };
        Ok(Some((number, value)))
    }

    fn varint(&mut self) -> Result<u64, Damage> {
        let wrong = Damage { offset: self.offset, expected: "a varint of at most ten bytes" };
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let Some((&byte, rest)) = self.rest.split_first() else { return Err(wrong) };
            (self.rest, self.offset) = (rest, self.offset + 1);
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(wrong)
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], Damage> {
        match self.rest.split_at_checked(length) {
            Some((taken, rest)) => {
                (self.rest, self.offset) = (rest, self.offset + length);
                Ok(taken)
            }
            None => Err(Damage { offset: self.offset, expected: "a value within its message" }),
        }
    }
}
