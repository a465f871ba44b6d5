//! Scope of an installation: the exports that its operator serves, by namespace and labels. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use kube::core::{Expression, Selector, SelectorExt as _};
use serde::{Deserialize, Serialize};

/// Maximum number of namespaces, and of excluded namespaces. Each namespace costs two watches, and each exclusion a
/// part of a query.
pub const MAX_NAMESPACES: usize = 64;

/// Maximum length of a label selector in bytes.
const MAX_SELECTOR_BYTES: usize = 1024;

/// Maximum length of the name of a namespace: a DNS label.
const MAX_NAMESPACE_BYTES: usize = 63;

/// Exports that an installation serves. The default is all exports of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WatchScope {
    /// Namespaces to serve. Empty: all.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    namespaces: BTreeSet<String>,
    /// Namespaces that are not served. Only without `namespaces`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    exclude_namespaces: BTreeSet<String>,
    /// Labels of the exports to serve.
    #[serde(skip_serializing_if = "LabelQuery::selects_all")]
    selector: LabelQuery,
}

/// Error of a scope. Each variant names the flag.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WatchScopeError {
    /// Namespaces are named and excluded.
    #[error(
        "--exclude-namespace: not together with --namespace: leave the namespace out of --namespace instead"
    )]
    NamedAndExcluded,
    /// Too many namespaces.
    #[error(
        "{flag}: {count} namespaces, at most {MAX_NAMESPACES}: use --selector, or an installation for all namespaces"
    )]
    TooMany {
        /// The flag.
        flag: &'static str,
        /// Number of namespaces.
        count: usize,
    },
    /// The text is no name of a namespace.
    #[error(
        "{flag} {name:?}: not the name of a namespace: lower-case letters, digits and `-`, at most 63 characters"
    )]
    InvalidNamespace {
        /// The flag.
        flag: &'static str,
        /// The text.
        name: String,
    },
}

impl WatchScope {
    /// Creates a scope from the values of the flags.
    pub fn new(
        namespaces: impl IntoIterator<Item = String>,
        excluded: impl IntoIterator<Item = String>,
        selector: LabelQuery,
    ) -> Result<Self, WatchScopeError> {
        let scope = Self {
            namespaces: check_names("--namespace", namespaces)?,
            exclude_namespaces: check_names("--exclude-namespace", excluded)?,
            selector,
        };
        if scope.namespaces.is_empty() || scope.exclude_namespaces.is_empty() {
            Ok(scope)
        } else {
            Err(WatchScopeError::NamedAndExcluded)
        }
    }

    /// Returns true if the installation serves an export of this namespace with these labels.
    pub fn contains(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        (self.namespaces.is_empty() || self.namespaces.contains(namespace))
            && !self.exclude_namespaces.contains(namespace)
            && self.selector.0.matches(labels)
    }

    /// Returns the namespaces to watch; empty: all.
    pub fn namespaces(&self) -> &BTreeSet<String> {
        &self.namespaces
    }

    /// Returns the only namespace, if there is one.
    pub fn single_namespace(&self) -> Option<&str> {
        match (self.namespaces.len(), self.namespaces.first()) {
            (1, Some(only)) => Some(only),
            _ => None,
        }
    }

    /// Returns the field selector that leaves out the excluded namespaces; `None`: none is excluded.
    pub fn field_selector(&self) -> Option<String> {
        let parts = self.exclude_namespaces.iter();
        let parts: Vec<String> = parts.map(|name| format!("metadata.namespace!={name}")).collect();
        (!parts.is_empty()).then(|| parts.join(","))
    }

    /// Returns the labels of the exports to serve.
    pub fn selector(&self) -> &LabelQuery {
        &self.selector
    }
}

fn check_names(
    flag: &'static str,
    names: impl IntoIterator<Item = String>,
) -> Result<BTreeSet<String>, WatchScopeError> {
    let names: BTreeSet<String> = names.into_iter().collect();
    let fits = |name: &str| {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let edges = !name.starts_with('-') && !name.ends_with('-');
        !name.is_empty() && name.len() <= MAX_NAMESPACE_BYTES && name.chars().all(inside) && edges
    };
    if let Some(name) = names.iter().find(|name| !fits(name)) {
        let name = name.chars().take(MAX_NAMESPACE_BYTES).collect();
        return Err(WatchScopeError::InvalidNamespace { flag, name });
    }
    if names.len() > MAX_NAMESPACES {
        return Err(WatchScopeError::TooMany {
            flag,
            count: names.len(),
        });
    }
    Ok(names)
}

/// Label selector in the syntax of `kubectl -l`: `key=value`, `key!=value`, `key in (a,b)`, `key notin (a,b)`, `key`,
/// `!key`, separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelQuery(Selector);

/// A label selector that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LabelQueryError {
    /// The text is too long.
    #[error("longer than {MAX_SELECTOR_BYTES} bytes")]
    TooLong,
    /// A part of the text is no requirement.
    #[error("{0:?} is none of key=value, key!=value, key in (a,b), key notin (a,b), key, !key")]
    Invalid(String),
}

impl LabelQuery {
    fn selects_all(&self) -> bool {
        self.0.selects_all()
    }
}

impl fmt::Display for LabelQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<LabelQuery> for String {
    fn from(query: LabelQuery) -> Self {
        query.to_string()
    }
}

impl TryFrom<String> for LabelQuery {
    type Error = LabelQueryError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for LabelQuery {
    type Err = LabelQueryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_SELECTOR_BYTES {
            return Err(LabelQueryError::TooLong);
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let parts = split_requirements(text).into_iter();
        let expressions = parts.map(|part| {
            requirement(part.trim()).ok_or_else(|| LabelQueryError::Invalid(part.trim().to_owned()))
        });
        Ok(Self(expressions.collect::<Result<Selector, _>>()?))
    }
}

/// Splits at the commas outside parentheses.
fn split_requirements(text: &str) -> Vec<&str> {
    let mut inside = false;
    text.split(|c| {
        match c {
            '(' => inside = true,
            ')' => inside = false,
            _ => {}
        }
        c == ',' && !inside
    })
    .collect()
}

fn requirement(part: &str) -> Option<Expression> {
    let set = |rest: &str| -> Option<BTreeSet<String>> {
        let values = rest.trim().strip_prefix('(')?.strip_suffix(')')?.split(',');
        values.map(|value| label_value(value.trim())).collect()
    };
    if let Some(key) = part.strip_prefix('!').filter(|rest| !rest.contains('=')) {
        return Some(Expression::DoesNotExist(label_key(key.trim())?));
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Some(Expression::NotEqual(
            label_key(key.trim())?,
            label_value(value.trim())?,
        ));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Expression::Equal(
            label_key(key.trim())?,
            label_value(value.trim())?,
        ));
    }
    match part.split_once(char::is_whitespace) {
        None => Some(Expression::Exists(label_key(part)?)),
        Some((key, rest)) => {
            let rest = rest.trim();
            let key = label_key(key)?;
            if let Some(values) = rest.strip_prefix("notin") {
                Some(Expression::NotIn(key, set(values)?))
            } else {
                Some(Expression::In(key, set(rest.strip_prefix("in")?)?))
            }
        }
    }
}

fn label_key(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    (!text.is_empty() && text.chars().all(fits)).then(|| text.to_owned())
}

fn label_value(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (text.len() <= MAX_NAMESPACE_BYTES && text.chars().all(fits)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(namespaces: &[&str], excluded: &[&str], selector: &str) -> WatchScope {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        WatchScope::new(owned(namespaces), owned(excluded), selector.parse().unwrap()).unwrap()
    }

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn a_scope_contains_exports_by_namespace_and_labels() {
        let cases = [
            (scope(&[], &[], ""), "a", "", true),
            (scope(&["a", "b"], &[], ""), "b", "", true),
            (scope(&["a", "b"], &[], ""), "c", "", false),
            (scope(&[], &["a"], ""), "a", "", false),
            (scope(&[], &["a"], ""), "b", "", true),
            (scope(&[], &[], "tier=gold"), "a", "tier=gold", true),
            (scope(&[], &[], "tier=gold"), "a", "tier=silver", false),
            (scope(&[], &[], "tier=gold"), "a", "", false),
            (scope(&[], &[], "tier!=gold"), "a", "", true),
            (
                scope(&[], &[], "tier in (gold, silver)"),
                "a",
                "tier=silver",
                true,
            ),
            (
                scope(&[], &[], "tier notin (gold,silver)"),
                "a",
                "tier=silver",
                false,
            ),
            (scope(&[], &[], "tier,!paused"), "a", "tier=x", true),
            (scope(&[], &[], "tier, !paused"), "a", "tier=x,paused=", false),
            (
                scope(&["a"], &[], "example.com/team == audit"),
                "a",
                "example.com/team=audit",
                true,
            ),
        ];
        for (scope, namespace, set, wanted) in cases {
            assert_eq!(
                scope.contains(namespace, &labels(set)),
                wanted,
                "{scope:?} {namespace} {set}"
            );
        }
    }

    #[test]
    fn a_scope_survives_its_annotation() {
        for scope in [
            WatchScope::default(),
            scope(&["a", "b"], &[], "tier in (gold,silver),team!=x,!paused,there"),
            scope(&[], &["a"], ""),
        ] {
            let text = serde_json::to_string(&scope).unwrap();
            assert_eq!(
                serde_json::from_str::<WatchScope>(&text).unwrap(),
                scope,
                "{text}"
            );
        }
        assert_eq!(serde_json::to_string(&WatchScope::default()).unwrap(), "{}");
    }

    #[test]
    fn invalid_flags_are_named() {
        for text in [
            "tier in gold",
            "a b",
            "=x",
            "tier=a b",
            "x in (a",
            "tier>3",
            "!",
            "a=b,,c",
        ] {
            let error = text.parse::<LabelQuery>().unwrap_err();
            assert!(matches!(error, LabelQueryError::Invalid(_)), "{text}: {error}");
        }
        assert_eq!(
            "x".repeat(1025).parse::<LabelQuery>(),
            Err(LabelQueryError::TooLong)
        );
        let new = |named: Vec<String>, excluded: Vec<String>| {
            WatchScope::new(named, excluded, LabelQuery::default())
        };
        assert_eq!(
            new(vec!["a".into()], vec!["b".into()]),
            Err(WatchScopeError::NamedAndExcluded)
        );
        let many: Vec<String> = (0..=MAX_NAMESPACES).map(|n| format!("n{n}")).collect();
        for wrong in [new(many.clone(), vec![]), new(vec![], many)] {
            assert!(
                matches!(wrong, Err(WatchScopeError::TooMany { count: 65, .. })),
                "{wrong:?}"
            );
        }
        for name in ["", "A", "-a", "a-", "a b", &"a".repeat(64)] {
            let wrong = new(vec![name.to_owned()], vec![]);
            assert!(
                matches!(wrong, Err(WatchScopeError::InvalidNamespace { .. })),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn exclusions_are_left_to_the_api_server() {
        assert_eq!(scope(&["a"], &[], "").field_selector(), None);
        assert_eq!(
            scope(&[], &["a", "b"], "").field_selector().as_deref(),
            Some("metadata.namespace!=a,metadata.namespace!=b")
        );
    }
}
