"""`docker-compose.yml` without a container engine: schema, variables, commands, hardening."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.deploy.cluster import read_secrets
from tests.deploy.compose import FILE, Service, Unset, read_compose, variables_of

DOCKER = REPOSITORY / "docker"
PAGE = REPOSITORY / "docs" / "deploy.md"
# Programs of third-party images: PostgreSQL, Redis, vLLM.
THIRD_PARTY = {"postgres": {"pg_isready"}, "redis": {"redis-cli", "redis-server"}, "vllm": {"python3"}}
# Programs in our images, from Debian or a pinned package; others come from `docker/`.
PROGRAMS = {
    "sh": None,
    "exec": None,
    "hostname": None,
    "airflow": "apache-airflow",
    "celery": "celery",
    "dask": "dask",
    "python": None,
    "vecap": None,
}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return read_secrets(tmp_path_factory.mktemp("secrets"))


@pytest.fixture(scope="module")
def services(secrets: dict[str, str]) -> dict[str, Service]:
    return read_compose(secrets)[0]


def test_it_is_a_valid_compose_file() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_every_secret_is_required_and_a_missing_one_is_named(secrets: dict[str, str]) -> None:
    required_names = {name for name, required in variables_of(FILE.read_text()).items() if required}
    assert required_names == set(secrets)
    for name in required_names:
        rest = {key: value for key, value in secrets.items() if key != name}
        with pytest.raises(Unset, match=f"{name} is not set; run:? make secrets"):
            read_compose(rest)


def test_no_secret_has_a_default() -> None:
    text = FILE.read_text()
    for name in re.findall(r"\$\{(\w*(?:PASSWORD|SECRET|_KEY)\w*):-", text):
        pytest.fail(f"{name} has a default")


def test_every_variable_is_documented(secrets: dict[str, str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    named = set(variables_of(FILE.read_text())) - set(secrets)
    assert {name for name in named if f"`{name}`" not in page} == set()


def test_secrets_are_generated_once_and_readable_only_by_their_owner(tmp_path: Path) -> None:
    first = read_secrets(tmp_path)
    key = (tmp_path / "secrets" / "tls" / "client.key").read_bytes()
    assert read_secrets(tmp_path) == first
    assert (tmp_path / "secrets" / "tls" / "client.key").read_bytes() == key
    assert len(set(first.values())) == len(first)
    for file in (
        tmp_path / ".env",
        tmp_path / "secrets" / "tls" / "client.key",
        tmp_path / "secrets" / "tls" / "ca.key",
    ):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ignored = subprocess.run(["git", "check-ignore", ".env", "secrets/tls/ca.key"], cwd=REPOSITORY, capture_output=True)
    assert ignored.returncode == 0


def test_a_missing_secret_is_added_without_changing_others(tmp_path: Path) -> None:
    first = read_secrets(tmp_path)
    lines = (tmp_path / ".env").read_text().splitlines(keepends=True)
    (tmp_path / ".env").write_text("".join(line for line in lines if not line.startswith("REDIS_PASSWORD")))
    second = read_secrets(tmp_path)
    assert second.keys() == first.keys()
    assert {name for name in first if first[name] != second[name]} == {"REDIS_PASSWORD"}


def test_an_existing_file_becomes_private_and_keeps_its_settings(tmp_path: Path) -> None:
    read_secrets(tmp_path)
    files = [tmp_path / ".env", tmp_path / "secrets" / "tls" / "client.key"]
    files[0].write_text("VECAP_CONFIG=/models/mine.yaml")  # no newline at the end
    for file in files:
        file.chmod(0o644)
    settings = read_secrets(tmp_path)
    assert settings.pop("VECAP_CONFIG") == "/models/mine.yaml"
    assert len(settings["POSTGRES_PASSWORD"]) == 48
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 2


def test_certificates_are_signed_by_one_authority(tmp_path: Path) -> None:
    read_secrets(tmp_path)
    tls = tmp_path / "secrets" / "tls"
    for name in ("scheduler", "worker", "client"):
        result = subprocess.run(
            ["openssl", "verify", "-CAfile", tls / "ca.pem", tls / f"{name}.pem"], capture_output=True
        )
        assert result.returncode == 0, result.stderr


def test_only_web_interfaces_are_published_and_only_on_localhost(services: dict[str, Service]) -> None:
    published = {name: service.body["ports"] for name, service in services.items() if "ports" in service.body}
    assert published == {
        "airflow-api": ["127.0.0.1:8080:8080"],
        "mlflow": ["127.0.0.1:5000:5000"],
        "dask-scheduler": ["127.0.0.1:8787:8787"],
    }


def test_no_service_runs_as_root_or_can_gain_privileges(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert re.fullmatch("postgres" if name == "postgres" else r"[1-9]\d*:0", service.body["user"])
        assert service.body["cap_drop"] == ["ALL"]
        assert service.body["security_opt"] == ["no-new-privileges:true"]


def image_environment() -> dict[str, str]:
    """Return the variables that the Dockerfile's base sets with `ENV`."""
    base = (DOCKER / "Dockerfile").read_text().split(" AS base\n")[1].split("\nFROM ")[0]
    lines = re.findall(r"^ENV (.*)$", base, re.MULTILINE)
    return dict(setting.split("=", 1) for line in lines for setting in line.split())


def test_every_uid_has_a_name_and_a_group_writable_home(services: dict[str, Service]) -> None:
    base = image_environment()
    assert f"chmod -R g=u /opt/airflow /var/lib/vecap {base['HOME']}" in (DOCKER / "Dockerfile").read_text()
    for service in services.values():
        environment = (base if service.target else {}) | service.environment
        if service.target or service.name == "vllm":  # images whose programs need a user name
            assert environment["USER"] == environment["LOGNAME"] == "vecap", service.name
            assert environment["HOME"] == (base["HOME"] if service.target else "/tmp"), service.name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("name", ["airflow-tables", "vllm"])
def test_an_unlisted_uid_has_a_user_name(services: dict[str, Service], name: str) -> None:
    """With `getpass.getuser()`, which Airflow and PyTorch call."""
    service = services[name]
    environment = (image_environment() if service.target else {}) | service.environment
    code = "import getpass, os; os.setgid(0); os.setuid(54321); print(getpass.getuser())"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout == "vecap\n", result.stderr


def test_the_log_size_of_every_service_is_limited(services: dict[str, Service]) -> None:
    for service in services.values():
        assert service.body["logging"]["options"] == {"max-size": "20m", "max-file": "3"}, service.name


def test_postgresql_includes_the_security_fixes_of_may_2026(services: dict[str, Service]) -> None:
    match = re.fullmatch(r"postgres:17\.(\d+)-bookworm", services["postgres"].body["image"])
    assert match
    assert int(match[1]) >= 10


def test_long_running_services_have_health_checks_restarts_and_memory_limits(services: dict[str, Service]) -> None:
    for service in services.values():
        if not service.job:
            assert service.health, service.name
            assert service.body["restart"] == "unless-stopped"
            assert "mem_limit" in service.body or service.name == "vllm" or "gpu" in service.profiles
        assert "latest" not in service.body["image"] or service.target is not None


def test_dependencies_have_matching_conditions_and_profiles(services: dict[str, Service]) -> None:
    for service in services.values():
        for dependency, condition in service.needs.items():
            expected = "service_completed_successfully" if services[dependency].job else "service_healthy"
            assert condition == expected, (service.name, dependency)
            assert set(services[dependency].profiles) <= set(service.profiles)


def test_every_program_is_in_its_image(services: dict[str, Service]) -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    copied = set(re.findall(r"docker/([\w.-]+)", " ".join(re.findall(r"^COPY .* /usr/local/bin/$", dockerfile, re.M))))
    pins = {
        line.partition("==")[0]
        for file in (REPOSITORY / "requirements.txt", DOCKER / "cluster.txt")
        for line in file.read_text().splitlines()
        if "==" in line
    }
    for service in services.values():
        for words in (service.command, service.health):
            if not words or words[0].startswith("--"):
                continue
            programs = {
                words[0],
                *re.findall(r"(?:^|&& |\| )(?:exec )?([a-z][\w.-]*)", words[-1] if words[0] == "sh" else ""),
            }
            for program in programs - {"sh", "exec", "echo", "grep"}:
                if service.target is None:
                    assert program in THIRD_PARTY[service.name], (service.name, program)
                elif program in PROGRAMS:
                    package = PROGRAMS[program]
                    assert package is None or package in pins
                else:
                    assert program in copied, (service.name, program)
                    assert (DOCKER / program).stat().st_mode & stat.S_IXUSR


def test_each_service_receives_only_its_own_secrets(services: dict[str, Service], secrets: dict[str, str]) -> None:
    def secrets_of(name: str) -> set[str]:
        text = " ".join([*services[name].environment.values(), *services[name].command])
        return {secret for secret, value in secrets.items() if len(value) > 8 and value in text}

    assert secrets_of("dask-worker") == {"S3_VECAP_SECRET", "VLLM_API_KEY"}
    assert secrets_of("dask-scheduler") == set()
    assert secrets_of("mlflow") == {
        "MLFLOW_DATABASE_PASSWORD", "MLFLOW_ADMIN_PASSWORD", "MLFLOW_SECRET_KEY", "S3_MLFLOW_SECRET",
    }  # fmt: skip
    assert "S3_ADMIN_SECRET" not in secrets_of("airflow-worker") | secrets_of("airflow-api") | secrets_of(
        "airflow-scheduler"
    )
    assert "S3_VECAP_SECRET" not in secrets_of("airflow-scheduler") | secrets_of("airflow-dag-processor")
    for service in services.values():  # process lists show commands
        assert not [name for name, value in secrets.items() if len(value) > 8 and value in " ".join(service.command)]


def test_the_default_configuration_is_in_the_image(services: dict[str, Service]) -> None:
    config = services["airflow-worker"].environment["VECAP_CONFIG"]
    assert (REPOSITORY / Path(config).relative_to("/opt/vecap")).is_file()
    assert "COPY configs /opt/vecap/configs" in (DOCKER / "Dockerfile").read_text()
