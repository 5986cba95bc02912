//! Writes compact JSON the way Go's `encoding/json` does for kube-apiserver.

/// Appends JSON to a buffer. Commas come by themselves: one is due unless something has just been opened.
pub(crate) struct Json<'a>(pub(crate) &'a mut Vec<u8>);

impl Json<'_> {
    /// `"key":{…}`
    pub(crate) fn object(&mut self, key: &str, fields: impl FnOnce(&mut Self)) {
        self.key(key);
        self.braced(fields);
    }

    /// `{…}` as an item of an array, or as a whole line.
    pub(crate) fn item(&mut self, fields: impl FnOnce(&mut Self)) {
        self.separate();
        self.braced(fields);
    }

    /// `"key":[…]`
    pub(crate) fn array(&mut self, key: &str, items: impl FnOnce(&mut Self)) {
        self.key(key);
        self.0.push(b'[');
        items(self);
        self.0.push(b']');
    }

    /// `"key":"…"`, the text being given in pieces.
    pub(crate) fn text(&mut self, key: &str, pieces: &[&str]) {
        self.key(key);
        self.quoted(pieces);
    }

    /// `"…"` as an item of an array.
    pub(crate) fn text_item(&mut self, text: &str) {
        self.separate();
        self.quoted(&[text]);
    }

    /// `"key":…`, the value being JSON already.
    pub(crate) fn raw(&mut self, key: &str, value: &str) {
        self.key(key);
        self.0.extend_from_slice(value.as_bytes());
    }

    fn key(&mut self, key: &str) {
        self.separate();
        self.quoted(&[key]);
        self.0.push(b':');
    }

    fn separate(&mut self) {
        if !matches!(self.0.last(), None | Some(b'{' | b'[' | b':' | b'\n')) {
            self.0.push(b',');
        }
    }

    fn braced(&mut self, fields: impl FnOnce(&mut Self)) {
        self.0.push(b'{');
        fields(self);
        self.0.push(b'}');
    }

    fn quoted(&mut self, pieces: &[&str]) {
        self.0.push(b'"');
        pieces.iter().for_each(|piece| escape(piece, self.0));
        self.0.push(b'"');
    }
}

/// Appends the inside of a string. `<`, `>`, `&`, U+2028 and U+2029 are escaped besides what JSON demands.
fn escape(text: &str, out: &mut Vec<u8>) {
    let special = |c: char| matches!(c, '"' | '\\' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}');
    let mut plain_from = 0;
    for (at, found) in text.match_indices(special) {
        out.extend_from_slice(&text.as_bytes()[plain_from..at]);
        plain_from = at + found.len();
        match found {
            "\"" => out.extend_from_slice(b"\\\""),
            "\\" => out.extend_from_slice(b"\\\\"),
            "\n" => out.extend_from_slice(b"\\n"),
            "\r" => out.extend_from_slice(b"\\r"),
            "\t" => out.extend_from_slice(b"\\t"),
            _ => found.chars().for_each(|c| out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes())),
        }
    }
    out.extend_from_slice(&text.as_bytes()[plain_from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if a comma is missing or too many, or nesting is not closed.
    #[test]
    fn separators_come_by_themselves() {
        let mut out = Vec::new();
        Json(&mut out).item(|j| {
            j.text("a", &["b", "c"]);
            j.raw("n", "1");
            j.object("o", |j| j.array("l", |j| ["x", "y"].into_iter().for_each(|text| j.text_item(text))));
            j.array("m", |j| (0..2).for_each(|_| j.item(|_| ())));
        });
        assert_eq!(out, br#"{"a":"bc","n":1,"o":{"l":["x","y"]},"m":[{},{}]}"#);
    }

    // Fails if a character is escaped otherwise than the server escapes it.
    #[test]
    fn escapes_are_those_of_go() {
        let mut out = Vec::new();
        Json(&mut out).item(|j| j.text("k", &["<a&b>\"\\\n\u{1}\u{2028}é💩"]));
        assert_eq!(String::from_utf8(out).unwrap(), "{\"k\":\"\\u003ca\\u0026b\\u003e\\\"\\\\\\n\\u0001\\u2028é💩\"}");
    }
}
