"""The database: connections, schema, migrations, prepared statements."""
