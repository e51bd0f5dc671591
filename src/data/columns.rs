//! Which column of a CSV file plays which role.

use std::path::Path;
#[cfg(feature = "cli")]
use std::path::PathBuf;

use super::batch::Schema;

/// What a column is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// 0 or 1, the click.
    Label,
    /// An integer that is checked and whose range is reported.
    Time,
    /// A number.
    Dense,
    /// An id.
    Categorical,
    /// Not read.
    Ignore,
}

impl Role {
    /// The role's name in a SPEC.
    pub fn name(self) -> &'static str {
        match self {
            Role::Label => "label",
            Role::Time => "time",
            Role::Dense => "dense",
            Role::Categorical => "cat",
            Role::Ignore => "ignore",
        }
    }

    fn parse(name: &str) -> Option<Role> {
        match name {
            "label" => Some(Role::Label),
            "time" => Some(Role::Time),
            "dense" => Some(Role::Dense),
            "cat" | "categorical" => Some(Role::Categorical),
            "ignore" => Some(Role::Ignore),
            _ => None,
        }
    }
}

/// Why column roles are not valid, or do not fit a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ColumnsError {
    /// A part of a SPEC that is not `role=columns`.
    #[error("columns: `{part}` is not of the form role=column or role=column|column")]
    Syntax {
        /// The part.
        part: String,
    },
    /// A role that does not exist.
    #[error("columns: there is no role `{role}`; the roles are label, time, dense, cat and ignore")]
    UnknownRole {
        /// The role.
        role: String,
    },
    /// Several columns, or `*`, where one column belongs.
    #[error("columns: {role} is one column, not `{found}`")]
    NotOneColumn {
        /// `label` or `time`.
        role: &'static str,
        /// What was given.
        found: String,
    },
    /// No label.
    #[error("columns: which column is the label? Add label=COLUMN{}", existing(.columns))]
    NoLabel {
        /// The columns that exist, where a file is known.
        columns: Vec<String>,
    },
    /// A column with two roles.
    #[error("columns: `{column}` is named both as {first} and as {second}")]
    TwoRoles {
        /// The column.
        column: String,
        /// Its role by the first mention.
        first: &'static str,
        /// Its role by the second.
        second: &'static str,
    },
    /// A column that the file does not have.
    #[error("{}: there is no column `{column}`{}", path.display(), existing(.columns))]
    Missing {
        /// The file.
        path: std::path::PathBuf,
        /// The column.
        column: String,
        /// The columns that exist.
        columns: Vec<String>,
    },
    /// Two columns of one name in a file.
    #[error("{}: two columns are called `{column}` (columns {first} and {second} of its header)", path.display())]
    Duplicate {
        /// The file.
        path: std::path::PathBuf,
        /// The name.
        column: String,
        /// 1-based number of the first.
        first: usize,
        /// 1-based number of the second.
        second: usize,
    },
    /// Neither a dense nor a categorical column.
    #[error("{}: no column is dense or categorical, so that nothing is left to learn from{}", path.display(), existing(.columns))]
    NoFeatures {
        /// The file.
        path: std::path::PathBuf,
        /// The columns that exist.
        columns: Vec<String>,
    },
    /// The roles file could not be read.
    #[cfg(feature = "cli")]
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The roles file is not what it should be.
    #[cfg(feature = "cli")]
    #[error("{}: not a file of column roles: {message}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What the TOML parser said, with line and column.
        message: String,
    },
}

/// `; the columns are a, b, c`, or nothing where no file is known.
fn existing(columns: &[String]) -> String {
    const SHOWN: usize = 60;
    if columns.is_empty() {
        return String::new();
    }
    let mut text = format!("; the columns are {}", columns[..columns.len().min(SHOWN)].join(", "));
    if columns.len() > SHOWN {
        text.push_str(&format!(" and {} more", columns.len() - SHOWN));
    }
    text
}

/// The roles of the columns, by name. `*` stands for every column that is not named, and at most one role has it;
/// without it, columns that are not named are ignored.
///
/// ```
/// use dimslab::data::{Columns, Role};
/// let columns = Columns::parse("label=click,time=hour,dense=price|age,cat=*,ignore=id")?;
/// let layout = columns.resolve("log.csv".as_ref(), &["id", "click", "hour", "price", "age", "site"].map(String::from))?;
/// assert_eq!(layout.roles()[5], Role::Categorical);
/// assert_eq!(layout.schema().dense, ["price", "age"]);
/// # Ok::<(), dimslab::data::ColumnsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Column and role, in the order of mention.
    named: Vec<(String, Role)>,
    /// The role of every other column.
    rest: Role,
}

impl Columns {
    /// Parses a SPEC: parts `role=column|column|...` separated by commas, with the roles `label`, `time`, `dense`,
    /// `cat` and `ignore`. Names that contain `,`, `|` or `=` need a roles file.
    ///
    /// # Errors
    /// Syntax, an unknown role, a column with two roles, no label.
    pub fn parse(spec: &str) -> Result<Columns, ColumnsError> {
        let mut mentions = Vec::new();
        for part in spec.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let syntax = || ColumnsError::Syntax { part: part.to_owned() };
            let (role, columns) = part.split_once('=').ok_or_else(syntax)?;
            let Some(role) = Role::parse(role.trim()) else {
                return Err(ColumnsError::UnknownRole { role: role.trim().to_owned() });
            };
            for column in columns.split('|').map(str::trim) {
                if column.is_empty() || column.contains('=') {
                    return Err(syntax());
                }
                mentions.push((column.to_owned(), role));
            }
        }
        Columns::from_mentions(mentions)
    }

    fn from_mentions(mentions: Vec<(String, Role)>) -> Result<Columns, ColumnsError> {
        let mut named: Vec<(String, Role)> = Vec::new();
        let mut rest: Option<Role> = None;
        for (column, role) in mentions {
            let single = matches!(role, Role::Label | Role::Time);
            if single && (column == "*" || named.iter().any(|&(_, r)| r == role)) {
                return Err(ColumnsError::NotOneColumn { role: role.name(), found: column });
            }
            let earlier = match column.as_str() {
                "*" => rest,
                _ => named.iter().find(|(name, _)| *name == column).map(|&(_, role)| role),
            };
            if let Some(first) = earlier {
                return Err(ColumnsError::TwoRoles { column, first: first.name(), second: role.name() });
            }
            if column == "*" { rest = Some(role) } else { named.push((column, role)) }
        }
        if !named.iter().any(|&(_, role)| role == Role::Label) {
            return Err(ColumnsError::NoLabel { columns: Vec::new() });
        }
        Ok(Columns { named, rest: rest.unwrap_or(Role::Ignore) })
    }

    /// Finds the columns in a file's header.
    ///
    /// # Errors
    /// A named column that the header lacks, two columns of one name, no column to learn from.
    pub fn resolve(&self, path: &Path, header: &[String]) -> Result<Layout, ColumnsError> {
        let mut seen = std::collections::HashMap::new();
        for (i, name) in header.iter().enumerate() {
            if let Some(first) = seen.insert(name.as_str(), i + 1) {
                let (path, column) = (path.to_path_buf(), name.clone());
                return Err(ColumnsError::Duplicate { path, column, first, second: i + 1 });
            }
        }
        let mut roles = vec![self.rest; header.len()];
        for (column, role) in &self.named {
            match seen.get(column.as_str()) {
                Some(&number) => roles[number - 1] = *role,
                None => {
                    let (path, column) = (path.to_path_buf(), column.clone());
                    return Err(ColumnsError::Missing { path, column, columns: header.to_vec() });
                }
            }
        }
        let layout = Layout { header: header.to_vec(), roles };
        let schema = layout.schema();
        if schema.dense.is_empty() && schema.categorical.is_empty() {
            return Err(ColumnsError::NoFeatures { path: path.to_path_buf(), columns: header.to_vec() });
        }
        Ok(layout)
    }
}

/// The roles of a file's columns, in the file's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    header: Vec<String>,
    roles: Vec<Role>,
}

impl Layout {
    /// Names of all columns of the file.
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// The role of each column of the file.
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }

    /// The dense and the categorical columns, each in the file's order.
    pub fn schema(&self) -> Schema {
        let with = |role| {
            let columns = self.header.iter().zip(&self.roles);
            columns.filter(|&(_, &r)| r == role).map(|(name, _)| name.clone()).collect()
        };
        Schema { dense: with(Role::Dense), categorical: with(Role::Categorical) }
    }
}

#[cfg(feature = "cli")]
mod roles_file {
    use std::path::Path;

    use super::{Columns, ColumnsError, Role};

    /// A file of column roles.
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct RolesFile {
        label: Option<String>,
        time: Option<String>,
        #[serde(default)]
        dense: Vec<String>,
        #[serde(default, alias = "cat")]
        categorical: Vec<String>,
        #[serde(default)]
        ignore: Vec<String>,
    }

    impl Columns {
        /// Parses column roles in TOML: `label` and `time` are a column each, `dense`, `categorical` and `ignore` lists
        /// of columns, `["*"]` for every other one. `path` is the name in messages.
        ///
        /// # Errors
        /// As [`Columns::parse`], and [`ColumnsError::Toml`].
        pub fn from_toml(path: &Path, text: &str) -> Result<Columns, ColumnsError> {
            let file: RolesFile = toml::from_str(text).map_err(|error| ColumnsError::Toml {
                path: path.to_path_buf(),
                message: error.to_string().trim_end().to_owned(),
            })?;
            let one = |column: Option<String>, role| column.map(|column| (column, role));
            let many = |columns: Vec<String>, role| columns.into_iter().map(move |column| (column, role));
            let mentions = one(file.label, Role::Label)
                .into_iter()
                .chain(one(file.time, Role::Time))
                .chain(many(file.dense, Role::Dense))
                .chain(many(file.categorical, Role::Categorical))
                .chain(many(file.ignore, Role::Ignore));
            Columns::from_mentions(mentions.collect())
        }

        /// Column roles from a command line's argument: a SPEC if it has a `=`, else the name of a TOML file.
        ///
        /// # Errors
        /// As [`Columns::parse`] and [`Columns::from_toml`], and [`ColumnsError::Read`].
        pub fn from_argument(argument: &str) -> Result<Columns, ColumnsError> {
            let path = Path::new(argument);
            if argument.contains('=') && !path.is_file() {
                return Columns::parse(argument);
            }
            match std::fs::read_to_string(path) {
                Ok(text) => Columns::from_toml(path, &text),
                Err(source) => Err(ColumnsError::Read { path: path.to_path_buf(), source }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Vec<String> {
        ["label", "timestamp_ms", "user", "price", "id"].map(String::from).to_vec()
    }

    fn resolve(spec: &str) -> Result<Layout, ColumnsError> {
        Columns::parse(spec)?.resolve(Path::new("log.csv"), &header())
    }

    #[test]
    fn a_star_is_every_column_not_named() {
        use Role::{Categorical as C, Dense as D, Ignore as I, Label as L, Time as T};
        for (spec, roles) in [
            ("label=label,time=timestamp_ms,cat=*", [L, T, C, C, C]),
            ("cat=*,label=label", [L, C, C, C, C]),
            ("label=label, time=timestamp_ms, dense=price, cat=*, ignore=id|user", [L, T, I, D, I]),
            ("label=label,cat=user", [L, I, C, I, I]),
            ("label=label,categorical=user|id,dense=*", [L, D, C, D, C]),
            ("label=label,dense=price,ignore=*", [L, I, I, D, I]),
        ] {
            assert_eq!(resolve(spec).unwrap().roles(), roles, "{spec}");
        }
        let schema = resolve("label=label,cat=id|user,dense=price").unwrap().schema();
        assert_eq!(
            (schema.dense, schema.categorical),
            (vec!["price".to_owned()], vec!["user".to_owned(), "id".to_owned()])
        );
    }

    #[test]
    fn mistakes_are_typed() {
        let error = |spec: &str| resolve(spec).unwrap_err();
        assert!(matches!(error("label=label,cat"), ColumnsError::Syntax { .. }));
        assert!(matches!(error("label=label,cat=a||b"), ColumnsError::Syntax { .. }));
        assert!(matches!(error("label=label,sparse=*"), ColumnsError::UnknownRole { .. }));
        assert!(matches!(error("label=*"), ColumnsError::NotOneColumn { .. }));
        assert!(matches!(error("label=label|id"), ColumnsError::NotOneColumn { .. }));
        assert!(matches!(error("cat=*"), ColumnsError::NoLabel { .. }));
        assert!(matches!(error(""), ColumnsError::NoLabel { .. }));
        assert!(matches!(error("label=label,cat=*,dense=*"), ColumnsError::TwoRoles { .. }));
        assert!(matches!(error("label=label,ignore=*"), ColumnsError::NoFeatures { .. }));
        let text = error("label=label,cat=*,dense=label").to_string();
        assert!(text.contains("`label`") && text.contains("dense"), "{text}");
    }

    #[test]
    fn a_missing_column_lists_those_that_exist() {
        let text = resolve("label=click,cat=*").unwrap_err().to_string();
        assert_eq!(text, "log.csv: there is no column `click`; the columns are label, timestamp_ms, user, price, id");
        let twice = ["label", "a", "a"].map(String::from);
        let error = Columns::parse("label=label,cat=*").unwrap().resolve(Path::new("x"), &twice).unwrap_err();
        assert!(matches!(error, ColumnsError::Duplicate { first: 2, second: 3, .. }), "{error}");
    }

    #[cfg(feature = "cli")]
    #[test]
    fn a_roles_file_says_the_same_as_a_spec() {
        let path = Path::new("roles.toml");
        let text = "label = \"label\"\ntime = \"timestamp_ms\"\ndense = [\"price\"]\ncategorical = [\"*\"]\nignore = [\"id\"]\n";
        let spec = "label=label,time=timestamp_ms,dense=price,cat=*,ignore=id";
        assert_eq!(Columns::from_toml(path, text).unwrap(), Columns::parse(spec).unwrap());
        let error = |text: &str| Columns::from_toml(path, text).unwrap_err();
        assert!(matches!(error("categorical = [\"*\"]"), ColumnsError::NoLabel { .. }));
        assert!(matches!(error("label = \"a\"\nlabels = 3"), ColumnsError::Toml { .. }));
        assert!(matches!(error("label = "), ColumnsError::Toml { .. }));
        assert!(matches!(error("label = \"a\"\ndense = [\"a\"]"), ColumnsError::TwoRoles { .. }));

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("roles.toml");
        std::fs::write(&file, text).unwrap();
        assert_eq!(Columns::from_argument(file.to_str().unwrap()).unwrap(), Columns::parse(spec).unwrap());
        assert_eq!(Columns::from_argument(spec).unwrap(), Columns::parse(spec).unwrap());
        let missing = Columns::from_argument("no/such/file.toml").unwrap_err();
        assert!(matches!(missing, ColumnsError::Read { .. }));
    }
}
