//! Values as a Python pickle of protocol 2, in the operations that memory_viz reads.

use serde_json::Value;

/// Writes a value. Numbers are integers of 64 bits or floats.
pub(super) fn pickle(value: &Value) -> Vec<u8> {
    let mut out = vec![0x80, 2];
    write(value, &mut out);
    out.push(b'.');
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(b'N'),
        Value::Bool(true) => out.push(0x88),
        Value::Bool(false) => out.push(0x89),
        Value::Number(number) => match number.as_i64().map(i128::from).or(number.as_u64().map(i128::from)) {
            Some(integer) => write_integer(integer, out),
            None => {
                out.push(b'G');
                out.extend(number.as_f64().unwrap_or(f64::NAN).to_be_bytes());
            }
        },
        Value::String(text) => {
            out.push(b'X');
            out.extend((text.len() as u32).to_le_bytes());
            out.extend(text.as_bytes());
        }
        Value::Array(values) => {
            out.extend([b']', b'(']);
            values.iter().for_each(|value| write(value, out));
            out.push(b'e');
        }
        Value::Object(fields) => {
            out.extend([b'}', b'(']);
            for (name, value) in fields {
                write(&Value::String(name.clone()), out);
                write(value, out);
            }
            out.push(b'u');
        }
    }
}

fn write_integer(integer: i128, out: &mut Vec<u8>) {
    match i32::try_from(integer) {
        Ok(small) => {
            out.push(b'J');
            out.extend(small.to_le_bytes());
        }
        Err(_) => {
            // Signed, so an unsigned number of 64 bits takes nine bytes.
            let bytes = integer.to_le_bytes();
            out.extend([0x8a, 9]);
            out.extend(&bytes[..9]);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn values_become_their_operations() {
        let value = serde_json::json!({"a": [1, null, true], "b": -2});
        let expected = b"\x80\x02}(X\x01\0\0\0a](J\x01\0\0\0N\x88eX\x01\0\0\0bJ\xfe\xff\xff\xffu.";
        assert_eq!(pickle(&value), expected);
        let expected = b"\x80\x02\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\0.";
        assert_eq!(pickle(&serde_json::json!(u64::MAX)), expected);
        assert_eq!(pickle(&serde_json::json!(0.5)), b"\x80\x02G\x3f\xe0\0\0\0\0\0\0.");
    }
}
