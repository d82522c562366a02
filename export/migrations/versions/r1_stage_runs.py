"""The table of stage runs."""

import sqlalchemy as sa
from alembic import op

revision = "r1"
down_revision = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "ledger_runs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("window_start", INSTANT),
        sa.Column("window_end", INSTANT),
        sa.Column("inputs", sa.JSON, nullable=False),
        sa.Column("inputs_sha256", sa.Text, nullable=False),
        sa.Column("code_sha256", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("heartbeat_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.Column("seconds", sa.Double),
        sa.Column("peak_memory_mb", sa.Integer),
        sa.Column("output_bytes", sa.BigInteger),
        sa.Column("artifact", sa.Text),
        sa.Column("figures", sa.JSON),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint("scope", "stage", "subject", "attempt", name="one_row_an_attempt"),
    )
    running = sa.text("state = 'running'")
    op.create_index(
        "one_running_attempt",
        "ledger_runs",
        ["scope", "stage", "subject"],
        unique=True,
        sqlite_where=running,
        postgresql_where=running,
    )
    op.create_index("ledger_runs_by_window", "ledger_runs", ["scope", "window_end"])


def downgrade() -> None:
    op.drop_table("ledger_runs")
