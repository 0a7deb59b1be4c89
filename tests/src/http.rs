//! As much HTTP/1.1 as origins and clients of the tests need: heads, and bodies by length.

use anyhow::{Context, Result, bail};

/// Longest head that is read, octets.
pub const MAX_HEAD: usize = 16 * 1024;

/// The head of a request or of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The first line.
    pub start: String,
    /// Names in lower case, and values.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// Takes a head off the front of `buffer`; `None` while it is incomplete.
    ///
    /// # Errors
    ///
    /// It is too long or not a head.
    pub fn take(buffer: &mut Vec<u8>) -> Result<Option<Self>> {
        let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
            if buffer.len() > MAX_HEAD {
                bail!("a head of more than {MAX_HEAD} octets");
            }
            return Ok(None);
        };
        let text = std::str::from_utf8(&buffer[..end]).context("a head that is not text")?;
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines
            .map(|line| {
                let (name, value) = line.split_once(':').context("a field without colon")?;
                Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect::<Result<Vec<_>>>()?;
        buffer.drain(..end + 4);
        Ok(Some(Self { start, fields }))
    }

    /// Value of a field; `name` in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }

    /// Octets of body that follow.
    ///
    /// # Errors
    ///
    /// The field is not a number.
    pub fn body_length(&self) -> Result<u64> {
        self.field("content-length")
            .map_or(Ok(0), |text| text.parse().context("Content-Length"))
    }

    /// Status code of a response.
    ///
    /// # Errors
    ///
    /// The first line is not a status line.
    pub fn status(&self) -> Result<u16> {
        self.start
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .with_context(|| format!("not a status line: {:?}", self.start))
    }

    /// Method and target of a request.
    ///
    /// # Errors
    ///
    /// The first line is not a request line.
    pub fn request(&self) -> Result<(&str, &str)> {
        let mut words = self.start.split(' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) => {
                Ok((method, target))
            }
            _ => bail!("not a request line: {:?}", self.start),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_only_when_it_is_whole() {
        let mut buffer = b"GET /name HTTP/1.1\r\nHost: a".to_vec();
        assert_eq!(Head::take(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(b"\r\nContent-Length: 3\r\n\r\nxyz");
        let head = Head::take(&mut buffer).unwrap().unwrap();
        assert_eq!(head.request().unwrap(), ("GET", "/name"));
        assert_eq!(head.field("host"), Some("a"));
        assert_eq!(head.body_length().unwrap(), 3);
        assert_eq!(buffer, b"xyz");
    }

    #[test]
    fn a_status_line_has_a_code() {
        let mut buffer = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
        let head = Head::take(&mut buffer).unwrap().unwrap();
        assert_eq!(head.status().unwrap(), 204);
        assert!(head.request().is_err());
    }
}
