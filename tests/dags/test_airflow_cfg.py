from __future__ import annotations

import configparser
import stat
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def shipped() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "airflow.cfg")
    return parser


def test_it_holds_no_secret_and_listens_on_loopback() -> None:
    cfg = shipped()
    secrets = {option for section in cfg.sections() for option in cfg[section] if "secret" in option}
    assert secrets == {"jwt_secret_cmd", "secret_key_cmd"}
    assert cfg["api"]["host"] == "127.0.0.1"
    assert cfg["api"]["base_url"] == f"http://127.0.0.1:{cfg['api']['port']}"


def test_every_path_but_the_dags_is_below_the_ignored_directory() -> None:
    cfg = shipped()
    paths = {option: value for section in cfg.sections() for option, value in cfg[section].items() if "/" in value}
    for option, value in paths.items():
        if option not in {"dags_folder", "base_url"}:
            assert "$AIRFLOW_HOME/.airflow/" in value, option
    assert ".airflow/" in (ROOT / ".gitignore").read_text().splitlines()


def test_secrets_are_made_once_for_their_owner_only(airflow_home: Path) -> None:
    from airflow.configuration import conf

    for section, option, name in (("api_auth", "jwt_secret", "jwt_secret"), ("api", "secret_key", "api_secret")):
        secret = conf.get(section, option)
        file = airflow_home / ".airflow" / name
        assert secret == conf.get(section, option) == file.read_text()
        assert len(secret) == 128
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
