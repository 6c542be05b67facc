//! Reading config.json with the path of every field at hand: after `bundle.rs` has parsed the text, the
//! sections are read through [`Field`], so that every error names the field it is about. A missing field and
//! `null` are the same, and unknown fields are not looked at, as the specification asks.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::error::{SpecError, quote};

/// A value of config.json and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Field<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Field<'a> {
    /// The whole file.
    pub(crate) fn root(value: &'a Value) -> Self {
        Self { value, path: String::new() }
    }

    /// An error about this field.
    pub(crate) fn error(&self, problem: impl Into<String>) -> SpecError {
        SpecError::Field { field: self.path.clone(), problem: problem.into() }
    }

    /// An error about a field of this object, which need not be there.
    pub(crate) fn child_error(&self, name: &str, problem: impl Into<String>) -> SpecError {
        SpecError::Field { field: self.child_path(name), problem: problem.into() }
    }

    /// Where this field is.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    fn child_path(&self, name: &str) -> String {
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        match (plain, self.path.is_empty()) {
            (true, true) => name.to_owned(),
            (true, false) => format!("{}.{name}", self.path),
            (false, _) => format!("{}[{}]", self.path, quote(name)),
        }
    }

    fn wrong_type(&self, expected: &str) -> SpecError {
        let found = match self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Number(value) => value.to_string(),
            Value::String(value) => quote(value),
            Value::Array(_) => "an array".to_owned(),
            Value::Object(_) => "an object".to_owned(),
        };
        self.error(format!("expected {expected}, found {found}"))
    }

    fn object(&self) -> Result<&'a Map<String, Value>, SpecError> {
        self.value.as_object().ok_or_else(|| self.wrong_type("an object"))
    }

    /// A field of this object, if it is there.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Field<'a>>, SpecError> {
        Ok(match self.object()?.get(name) {
            None | Some(Value::Null) => None,
            Some(value) => Some(Field { value, path: self.child_path(name) }),
        })
    }

    /// A field of this object that has to be there.
    pub(crate) fn require(&self, name: &str) -> Result<Field<'a>, SpecError> {
        self.get(name)?.ok_or_else(|| self.child_error(name, "missing"))
    }

    /// The elements of an array of this object; none if it is missing.
    pub(crate) fn list(&self, name: &str) -> Result<Vec<Field<'a>>, SpecError> {
        self.get(name)?.map_or_else(|| Ok(Vec::new()), |field| field.elements())
    }

    /// The elements of this array.
    pub(crate) fn elements(&self) -> Result<Vec<Field<'a>>, SpecError> {
        let values = self.value.as_array().ok_or_else(|| self.wrong_type("an array"))?;
        let element = |(index, value)| Field { value, path: format!("{}[{index}]", self.path) };
        Ok(values.iter().enumerate().map(element).collect())
    }

    /// The fields of an object of this object, sorted by name; none if it is missing.
    pub(crate) fn entries(&self, name: &str) -> Result<Vec<(&'a str, Field<'a>)>, SpecError> {
        let Some(field) = self.get(name)? else { return Ok(Vec::new()) };
        let entry = |(key, value): (&'a String, &'a Value)| {
            (key.as_str(), Field { value, path: field.child_path(key) })
        };
        Ok(field.object()?.iter().map(entry).collect())
    }

    /// This string.
    pub(crate) fn string(&self) -> Result<&'a str, SpecError> {
        self.value.as_str().ok_or_else(|| self.wrong_type("a string"))
    }

    /// This boolean.
    pub(crate) fn boolean(&self) -> Result<bool, SpecError> {
        self.value.as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    /// This number, in 0 to 2^64-1.
    pub(crate) fn unsigned(&self) -> Result<u64, SpecError> {
        self.value.as_u64().ok_or_else(|| self.wrong_type("an integer from 0 to 18446744073709551615"))
    }

    /// This number, in 0 to `max`.
    pub(crate) fn unsigned_to(&self, max: u32) -> Result<u32, SpecError> {
        let number = self.value.as_u64().and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| *number <= max);
        number.ok_or_else(|| self.wrong_type(&format!("an integer from 0 to {max}")))
    }

    /// This number, in -2^63 to 2^63-1.
    pub(crate) fn signed(&self) -> Result<i64, SpecError> {
        let expected = "an integer from -9223372036854775808 to 9223372036854775807";
        self.value.as_i64().ok_or_else(|| self.wrong_type(expected))
    }

    /// A string of this object, if it is there.
    pub(crate) fn opt_string(&self, name: &str) -> Result<Option<&'a str>, SpecError> {
        self.get(name)?.map(|field| field.string()).transpose()
    }

    /// A boolean of this object; false if it is missing.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, SpecError> {
        self.get(name)?.map_or(Ok(false), |field| field.boolean())
    }

    /// A number of this object, if it is there.
    pub(crate) fn opt_unsigned(&self, name: &str) -> Result<Option<u64>, SpecError> {
        self.get(name)?.map(|field| field.unsigned()).transpose()
    }

    /// A number of this object up to `max`, if it is there.
    pub(crate) fn opt_unsigned_to(&self, name: &str, max: u32) -> Result<Option<u32>, SpecError> {
        self.get(name)?.map(|field| field.unsigned_to(max)).transpose()
    }

    /// A signed number of this object, if it is there.
    pub(crate) fn opt_signed(&self, name: &str) -> Result<Option<i64>, SpecError> {
        self.get(name)?.map(|field| field.signed()).transpose()
    }

    /// The strings of an array of this object; none if it is missing.
    pub(crate) fn strings(&self, name: &str) -> Result<Vec<&'a str>, SpecError> {
        self.list(name)?.iter().map(Field::string).collect()
    }

    /// It is an array or an object with something in it, or any other value.
    pub(crate) fn is_filled(&self) -> bool {
        match self.value {
            Value::Null => false,
            Value::Array(values) => !values.is_empty(),
            Value::Object(values) => !values.is_empty(),
            Value::String(value) => !value.is_empty(),
            Value::Bool(_) | Value::Number(_) => true,
        }
    }
}

/// The path of a string or a name with a NUL byte, which would end early wherever the kernel reads it.
pub(crate) fn find_nul(value: &Value) -> Option<String> {
    let mut steps = Vec::new();
    if !walk(value, &mut steps) {
        return None;
    }
    let mut path = String::new();
    for step in steps.iter().rev() {
        // Writing to a string cannot fail.
        let _ = match step {
            Step::Name(name) if path.is_empty() => write!(path, "{}", name.escape_debug()),
            Step::Name(name) => write!(path, ".{}", name.escape_debug()),
            Step::Index(index) => write!(path, "[{index}]"),
        };
    }
    Some(path)
}

enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

/// Recursion is bounded: the parser refuses more than 128 levels.
fn walk<'a>(value: &'a Value, steps: &mut Vec<Step<'a>>) -> bool {
    let found = match value {
        Value::String(text) => return text.contains('\0'),
        Value::Array(values) => {
            let hit = values.iter().position(|value| walk(value, steps));
            hit.map(Step::Index)
        }
        Value::Object(values) => {
            let hit = values.iter().find(|(name, value)| name.contains('\0') || walk(value, steps));
            hit.map(|(name, _)| Step::Name(name))
        }
        _ => None,
    };
    match found {
        Some(step) => {
            steps.push(step);
            true
        }
        None => false,
    }
}
