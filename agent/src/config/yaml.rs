//! The configuration file: YAML mappings flattened to dotted keys, each value with its line.
//!
//! This works on the parser's events, not on a tree, for three reasons: every scalar keeps its text (a token `0123`
//! stays what it is), a repeated key is seen instead of overwritten, and deep nesting costs no stack.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::problem::{Origin, Problems};
use super::settings::{self, Setting};

/// A value as it was written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Its text; several for a list.
    pub texts: Vec<String>,
    /// Where it stands.
    pub origin: Origin,
}

/// Reads the settings in `text`, the content of the file `name`. What cannot be taken is noted in `problems`.
pub fn read(name: &str, text: &str, problems: &mut Problems) -> BTreeMap<&'static str, Given> {
    let mut reader = Reader { name, problems, given: BTreeMap::new(), seen: BTreeMap::new(), stack: Vec::new() };
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(parsed) => parsed,
            Err(error) => {
                let what = format!("this is not YAML ({})", error.info());
                reader.problem(error.marker().line(), "", what, "check the indentation and the quotes");
                break;
            }
        };
        documents += usize::from(matches!(event, Event::DocumentStart(_)));
        if documents > 1 {
            reader.problem(span.start.line(), "", "a second document starts here", "keep one document");
            break;
        }
        if !reader.take(event, span.start.line()) {
            break;
        }
    }
    reader.given
}

/// What encloses the place the parser is at.
enum Frame {
    /// A mapping whose keys begin with `prefix`; `key` waits for its value.
    Section { prefix: String, key: Option<(String, usize)> },
    /// The list given for a setting.
    List { setting: &'static Setting, line: usize, texts: Vec<String> },
    /// Something already complained about.
    Skip,
}

struct Reader<'a> {
    name: &'a str,
    problems: &'a mut Problems,
    given: BTreeMap<&'static str, Given>,
    /// Line of every key met so far.
    seen: BTreeMap<String, usize>,
    stack: Vec<Frame>,
}

impl Reader<'_> {
    /// Takes one event; `false` where nothing sensible can follow.
    fn take(&mut self, event: Event<'_>, line: usize) -> bool {
        match event {
            Event::Scalar(text, style, ..) => self.scalar(&text, style == ScalarStyle::Plain, line),
            Event::MappingStart(..) => self.open_mapping(line),
            Event::SequenceStart(..) => self.open_list(line),
            Event::MappingEnd | Event::SequenceEnd => {
                self.close();
                true
            }
            Event::Alias(_) => {
                self.problem(line, "", "aliases are not supported", "write the value out");
                false
            }
            _ => true,
        }
    }

    /// A scalar: a key, a value, or an element of a list.
    fn scalar(&mut self, text: &str, plain: bool, line: usize) -> bool {
        let is_null = plain && matches!(text, "" | "~" | "null");
        match self.stack.last_mut() {
            Some(Frame::Skip) => {}
            Some(Frame::List { texts, .. }) => texts.push(text.to_owned()),
            Some(Frame::Section { prefix, key: waiting @ None }) => {
                let key = if prefix.is_empty() { text.to_owned() } else { format!("{prefix}.{text}") };
                *waiting = Some((key, line));
            }
            Some(Frame::Section { key: waiting, .. }) => {
                let taken = waiting.take();
                self.value(taken, text, is_null);
            }
            // A file of comments only is one null.
            None if is_null => {}
            None => {
                self.problem(line, "", "the file holds no settings", "write `key: value` lines");
                return false;
            }
        }
        true
    }

    /// The single value of a key.
    fn value(&mut self, key: Option<(String, usize)>, text: &str, is_null: bool) {
        let Some((key, line)) = key.filter(|(key, line)| self.is_first(key, *line)) else { return };
        match settings::find(&key) {
            Some(_) if is_null => {
                self.problem(line, &key, "has no value", "give it one, or remove the line to use the default");
            }
            Some(setting) => self.accept(setting, line, vec![text.to_owned()]),
            // A section with everything in it commented out.
            None if is_null && settings::is_section(&key) => {}
            None => self.misplaced(&key, line),
        }
    }

    /// A mapping begins: a section, or out of place.
    fn open_mapping(&mut self, line: usize) -> bool {
        let frame = match self.stack.last_mut() {
            None => Frame::Section { prefix: String::new(), key: None },
            Some(Frame::Skip) => Frame::Skip,
            Some(Frame::List { setting, .. }) => {
                let key = setting.key;
                self.nested_element(key, line)
            }
            Some(Frame::Section { key, .. }) => match key.take() {
                None => return self.strange_key(line),
                Some((key, line)) if !self.is_first(&key, line) => Frame::Skip,
                Some((key, _)) if settings::is_section(&key) => Frame::Section { prefix: key, key: None },
                Some((key, line)) => {
                    self.misplaced(&key, line);
                    Frame::Skip
                }
            },
        };
        self.stack.push(frame);
        true
    }

    /// A list begins: that of a setting, or out of place.
    fn open_list(&mut self, line: usize) -> bool {
        let frame = match self.stack.last_mut() {
            None => {
                self.problem(line, "", "the file holds no settings", "write `key: value` lines");
                return false;
            }
            Some(Frame::Skip) => Frame::Skip,
            Some(Frame::List { setting, .. }) => {
                let key = setting.key;
                self.nested_element(key, line)
            }
            Some(Frame::Section { key, .. }) => match key.take() {
                None => return self.strange_key(line),
                Some((key, line)) if !self.is_first(&key, line) => Frame::Skip,
                Some((key, line)) => match settings::find(&key).filter(|setting| setting.kind.is_list()) {
                    Some(setting) => Frame::List { setting, line, texts: Vec::new() },
                    None => {
                        self.misplaced(&key, line);
                        Frame::Skip
                    }
                },
            },
        };
        self.stack.push(frame);
        true
    }

    /// Complains about an element of a list that is a mapping or a list.
    fn nested_element(&mut self, key: &str, line: usize) -> Frame {
        self.problem(line, key, "this element is not text", "write one text per element");
        Frame::Skip
    }

    /// The innermost mapping or list ends.
    fn close(&mut self) {
        if let Some(Frame::List { setting, line, texts }) = self.stack.pop() {
            self.accept(setting, line, texts);
        }
    }

    /// Whether `key` is met for the first time; else a problem.
    fn is_first(&mut self, key: &str, line: usize) -> bool {
        let Some(first) = self.seen.insert(key.to_owned(), line) else { return true };
        self.problem(line, key, format!("is already on line {first}"), "keep one of them");
        false
    }

    /// Complains about a key that is unknown, or known but of another shape than what was given for it.
    fn misplaced(&mut self, key: &str, line: usize) {
        if let Some(setting) = settings::find(key) {
            let wanted = if setting.kind.is_list() { "a list of values" } else { "one value" };
            self.problem(line, key, "has the wrong type", format!("give {wanted} ({})", setting.kind.describe()));
        } else if settings::is_section(key) {
            self.problem(line, key, "is a section", "write its keys below it, indented");
        } else {
            let remedy = match settings::nearest(key) {
                Some(near) => format!("did you mean {near}?"),
                None => "remove it".to_owned(),
            };
            self.problem(line, key, "is not a setting", remedy);
        }
    }

    /// Complains about a key that is a mapping or a list.
    fn strange_key(&mut self, line: usize) -> bool {
        self.problem(line, "", "a key is not text", "write `key: value` lines");
        false
    }

    fn accept(&mut self, setting: &'static Setting, line: usize, texts: Vec<String>) {
        let origin = Origin::File { name: self.name.to_owned(), line };
        self.given.insert(setting.key, Given { texts, origin });
    }

    fn problem(&mut self, line: usize, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.problems.add(&Origin::File { name: self.name.to_owned(), line }, key, what, remedy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_of(text: &str) -> Vec<String> {
        let mut problems = Problems::default();
        read("f.yaml", text, &mut problems);
        problems.0.iter().map(ToString::to_string).collect()
    }

    // Fails if nesting, dotted keys, lists or quoting give other keys, texts or lines.
    #[test]
    fn mappings_flatten_to_dotted_keys_with_lines() {
        let text = "# comment\ncluster_id: 0123\nsource:\n  paths:\n    - /a\n    - '/b c'\nchunk.level: 3\nlimits:\n";
        let mut problems = Problems::default();
        let given = read("f.yaml", text, &mut problems);
        assert_eq!(problems, Problems::default());
        let found: Vec<_> = given.iter().map(|(key, given)| (*key, given.texts.join("|"), &given.origin)).collect();
        let at = |line| Origin::File { name: "f.yaml".to_owned(), line };
        let expected = [
            ("chunk.level", "3".to_owned(), &at(7)),
            ("cluster_id", "0123".to_owned(), &at(2)),
            ("source.paths", "/a|/b c".to_owned(), &at(4)),
        ];
        assert_eq!(found, expected);
    }

    // Fails if one of these mistakes passes, is reported elsewhere, or hides the ones behind it.
    #[test]
    fn every_mistake_is_named_with_its_line() {
        let text = "clusterid: x\ncluster_id: a\ncluster_id: b\nsource: /a\nchunk:\n  level: [1]\n  encoding:\n  \
                    offload_afer: 1s\nsource.paths: {a: b}\nbogus:\n  deep: [1, {a: b}]\nnode_id: ok\n";
        let expected = [
            "f.yaml:1: clusterid: is not a setting; did you mean cluster_id?",
            "f.yaml:3: cluster_id: is already on line 2; keep one of them",
            "f.yaml:4: source: is a section; write its keys below it, indented",
            "f.yaml:6: chunk.level: has the wrong type; give one value (whole number)",
            "f.yaml:7: chunk.encoding: has no value; give it one, or remove the line to use the default",
            "f.yaml:8: chunk.offload_afer: is not a setting; did you mean chunk.offload_after?",
            "f.yaml:9: source.paths: has the wrong type; give a list of values (list of paths or globs)",
            "f.yaml:10: bogus: is not a setting; remove it",
        ];
        assert_eq!(problems_of(text), expected);
    }

    // Fails if a file that cannot be understood as a whole passes, or an empty one does not.
    #[test]
    fn files_that_are_no_mapping_are_refused() {
        assert_eq!(problems_of(""), [""; 0]);
        assert_eq!(problems_of("# nothing\n"), [""; 0]);
        assert_eq!(problems_of("\u{feff}cluster_id: a\r\nnode_id: b\r\n"), [""; 0]);
        for text in ["just text", "- a\n- b", "{[a]: b}", "a: &x 1\nb: *x", "a: b\n---\nc: d", "source: [\n", "a: 'b"] {
            let found = problems_of(text);
            assert!(!found.is_empty(), "{text:?}");
        }
    }

    proptest::proptest! {
        // Fails if any text makes the reader panic, or a value appears for a key that is no setting.
        #[test]
        fn any_text_is_read_without_panic(text in "[a-z_.:\\-\\[\\]{}'\"#&*|>!%@?,~\n\t ]{0,80}|\\PC{0,60}") {
            let mut problems = Problems::default();
            let given = read("f", &text, &mut problems);
            proptest::prop_assert!(given.keys().all(|key| settings::find(key).is_some()));
        }
    }

    // Fails if nesting is followed by recursion.
    #[test]
    fn deep_nesting_is_no_danger() {
        assert!(!problems_of(&"[".repeat(200_000)).is_empty());
        assert!(!problems_of(&format!("cluster_id: {}", "{a: ".repeat(20_000))).is_empty());
    }
}
