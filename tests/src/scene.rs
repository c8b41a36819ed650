//! The cast of most tests: of two workloads one may reach a third.

/// The port at which db serves.
pub const PORT: u16 = 5432;

/// web may reach db, ci may not; db is in nobody's reach otherwise.
pub const POLICY: &str = r#"
[environment.prod]
[environment.dev]
[workload.web]
environment = "prod"
select = { cgroup = "/web" }
[workload.db]
environment = "prod"
select = { cgroup = "/db" }
[workload.ci]
environment = "dev"
select = { cgroup = "/ci" }

[[allow]]
id = "web-db"
from = "web"
to = "db"
ports = ["tcp/5432", "udp/5432"]
"#;
