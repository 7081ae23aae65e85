"""Alembic's entry: runs the migrations on the connection that ``migrate`` hands over."""

from alembic import context

from reverie.store.database.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
context.run_migrations()
