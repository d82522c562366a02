"""How Alembic runs the migrations: on the connection, and in the transaction, of `ledger_database.upgrade`."""

from alembic import context

from export.ledger_models import VERSION_TABLE, Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()
