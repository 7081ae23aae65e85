from pathlib import Path

import pytest

from reverie.errors import ConfigurationError
from reverie.models.catalogue import CATALOGUE
from reverie.settings import (
    BackendSettings,
    ModelSettings,
    ServerSettings,
    Settings,
    StoreSettings,
    load,
    variable_of,
)
from reverie.store.database.engine import parse_url


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "reverie.toml"
    file.write_text(text)
    return file


def problems(tmp_path: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(write(tmp_path, text), environ=environ)
    return caught.value.problems


def test_without_anything_the_default_model_is_served_to_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(environ={})
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert [model.name for model in settings.models] == ["smollm2-135m"]
    assert settings.default_model.source == "smollm2-135m"
    assert settings.default_model.aliases == CATALOGUE[0].aliases


def test_flags_override_variables_which_override_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, '[server]\nhost = "127.0.0.2"\nport = 1\nqueue_size = 5\n')
    environ = {"REVERIE_SERVER_PORT": "2", "REVERIE_SERVER_QUEUE_SIZE": "6"}
    settings = load(file, {"server": {"port": 3}}, environ=environ)
    assert settings.server.host == "127.0.0.2"
    assert settings.server.queue_size == 6
    assert settings.server.port == 3


def test_an_example_with_both_sorts_of_models_is_understood(tmp_path: Path) -> None:
    settings = load(
        write(
            tmp_path,
            """
            [server]
            host = "127.0.0.1"
            port = 8000
            [store]
            url = "sqlite:///reverie.db"
            [[models]]
            name = "smollm2-135m"
            aliases = ["HuggingFaceTB/SmolLM2-135M-Instruct"]
            source = "smollm2-135m"
            default = true
            [[models]]
            name = "big"
            [[models.backends]]
            url = "http://127.0.0.1:9100/v1"
            model = "m"
            api_key_env = "BIG_KEY"
            """,
        ),
        environ={},
    )
    assert settings.default_model.name == "smollm2-135m"
    assert settings.models[1].backends[0].model == "m"


def test_the_command_line_can_replace_the_files_models(tmp_path: Path) -> None:
    file = write(tmp_path, '[[models]]\nname = "a"\nsource = "a.gguf"\n')
    settings = load(file, only_model=ModelSettings(name="b", source="b.gguf"), environ={})
    assert [model.name for model in settings.models] == ["b"]


def test_an_unknown_key_is_a_mistake_that_lists_the_known_ones(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "[server]\nprot = 1\n")
    assert "reverie.toml" in problem
    assert "server.prot" in problem
    assert "port" in problem.split("known here:")[1]


def test_an_unknown_key_of_a_backend_lists_the_keys_of_backends(tmp_path: Path) -> None:
    text = '[[models]]\nname = "a"\n[[models.backends]]\nurl = "http://h/v1"\napi_key = "s3cret"\n'
    (problem,) = problems(tmp_path, text)
    assert "models[0].backends[0].api_key" in problem
    assert "api_key_env" in problem
    assert "s3cret" not in problem


@pytest.mark.parametrize(
    ("table", "known"), [("price", "output"), ("limits", "rpm"), ("defaults", "min_p")]
)
def test_an_unknown_key_of_a_models_table_lists_the_keys_of_that_table(
    tmp_path: Path, table: str, known: str
) -> None:
    text = f'[[models]]\nname = "a"\nsource = "a.gguf"\n{table} = {{wrong = 1}}\n'
    (problem,) = problems(tmp_path, text)
    assert f"models[0].{table}.wrong" in problem
    listed = problem.split("known here:")[1]
    assert known in listed
    assert "source" not in listed


@pytest.mark.parametrize(
    "line",
    ["temperature = 2.1", "top_p = 0", "top_k = -2", "min_p = 1.1", "max_tokens = 0",
     "repetition_penalty = 0"],
)  # fmt: skip
def test_a_models_default_is_within_the_bounds_of_the_request(tmp_path: Path, line: str) -> None:
    (problem,) = problems(tmp_path, f'[[models]]\nname="a"\nsource="a.gguf"\ndefaults={{{line}}}')
    assert f"models[0].defaults.{line.split()[0]}" in problem


def test_the_default_store_is_in_the_state_directory_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / name))
        assert Settings().store.url == f"sqlite:///{tmp_path}/{name}/reverie/reverie.db"


@pytest.mark.parametrize("folder", ["what?", "50%20off", "a#b", "a:b@c"])
def test_the_default_store_is_there_whatever_the_folder_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / folder))
    found = parse_url(Settings().store.url).database
    assert found == str(tmp_path / folder / "reverie" / "reverie.db")


def test_no_home_folder_is_a_mistake_that_names_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(ConfigurationError, match=r"store\.url: .*XDG_STATE_HOME"):
        load(environ={})
    assert StoreSettings(url="none").url == "none"


def test_every_mistake_is_reported_with_what_would_be_accepted(tmp_path: Path) -> None:
    found = problems(tmp_path, '[server]\nport = 70000\nlog_format = "xml"\n')
    assert len(found) == 2
    assert any("server.port" in line and "65535" in line for line in found)
    assert any("server.log_format" in line and "'text' or 'json'" in line for line in found)


def test_of_many_mistakes_the_first_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    found = problems(tmp_path, '[[models]]\nname = "m"\n' * 1000)
    assert len(found) == 21
    assert "models[19]" in found[19]
    assert found[20] == "and 980 more"


def test_a_mistake_in_a_variable_names_the_variable(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "", REVERIE_SERVER_PORT="eighty")
    assert problem.startswith("environment REVERIE_SERVER_PORT: server.port")


def test_a_mistake_on_the_command_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"command line: server\.port"):
        load(write(tmp_path, ""), {"server": {"port": -1}}, environ={})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[models]]\nname = "a"\n', "needs either source"),
        ('[[models]]\nname = "a"\nsource = "b"\nbackends = [{url = "http://h"}]\n', "either"),
        ('[[models]]\nname = "a"\nsource = "x"\n[[models]]\nname = "a"\nsource = "y"\n', "'a'"),
        ('[[models]]\nname = "a"\nbackends = [{url = "ftp://h"}]\n', "http://"),
        ('[[models]]\nname = "a"\nbackends = [{url = "http://u:p@h"}]\n', "api_key_env"),
        (
            '[[models]]\nname="a"\nsource="x"\ndefault=true\n'
            '[[models]]\nname="b"\nsource="y"\ndefault=true\n',
            "only one",
        ),
        ('[[models]]\nname = "a"\nbackends = [{url = "http://h/\\u0000"}]\n', "control characters"),
        ('[[models]]\nname = "a"\nbackends = [{url = "http://h /"}]\n', "spaces"),
        ('[[models]]\nname = "\\u001b[31m"\nsource = "x"\n', "control characters"),
        ('[[models]]\nname = "a"\naliases = ["a\\n"]\nsource = "x"\n', "control characters"),
        ("models = []\n", "models"),
        ("[server\n", "not valid TOML"),
        ("x = " + "[" * 100_000 + "]" * 100_000, "not valid TOML: it is nested too deeply"),
        pytest.param("x." * 20_000 + "x = 1", "x: unknown key", marks=pytest.mark.slow),
        ("x = " + "9" * 5000, "not valid TOML"),
        ("server = 3\n", "server"),
    ],
)
def test_what_cannot_be_served_is_explained(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in "\n".join(problems(tmp_path, text))


@pytest.mark.parametrize("tail", ["?key=s3cret", "#s3cret", "/?", "?key=s3cret#more"])
def test_a_url_with_a_query_or_a_fragment_is_refused_and_not_repeated(
    tmp_path: Path, tail: str
) -> None:
    text = f'[[models]]\nname = "a"\nbackends = [{{url = "http://h/v1{tail}"}}]\n'
    (problem,) = problems(tmp_path, text)
    assert "models[0].backends[0].url: must end before the ? of a query or the #" in problem
    assert "s3cret" not in problem


def durations() -> list[tuple[str, str]]:
    """Where each number that may have a fraction is written."""
    heads = {
        "[server]": ServerSettings,
        "[store]": StoreSettings,
        '[[models]]\nname = "a"\nsource = "b"': ModelSettings,
        '[[models]]\nname = "a"\n[[models.backends]]\nurl = "http://h"': BackendSettings,
    }
    return [
        (head, key)
        for head, section in heads.items()
        for key, field in section.model_fields.items()
        if field.annotation is float
    ]


@pytest.mark.parametrize("value", ["inf", "nan", "-inf", "1e300", "1e9", "-1"])
@pytest.mark.parametrize(("head", "key"), durations())
def test_a_duration_is_a_number_within_bounds(
    tmp_path: Path, head: str, key: str, value: str
) -> None:
    (problem,) = problems(tmp_path, f"{head}\n{key} = {value}\n")
    assert f"{key}: Input should be " in problem


@pytest.mark.parametrize(
    "line",
    ["max_kept_answer = 99999999999999", "resume_grace = 3601", "queue_size = 9999999999"],
)
def test_what_is_kept_for_callers_has_a_bound(tmp_path: Path, line: str) -> None:
    (problem,) = problems(tmp_path, f"[server]\n{line}\n")
    assert "less than or equal to" in problem


@pytest.mark.parametrize("text", ["1d", "400", "12h", "d", "-5d", "99999d", "", "always"])
def test_how_long_requests_are_kept_is_days_or_for_ever(tmp_path: Path, text: str) -> None:
    (problem,) = problems(tmp_path, f'[store]\nkeep_requests = "{text}"\n')
    assert "store.keep_requests: should be a number of days such as 400d" in problem


def test_how_long_requests_are_kept(tmp_path: Path) -> None:
    assert StoreSettings().kept_days is None
    assert StoreSettings(keep_requests="forever").kept_days is None
    assert StoreSettings(keep_requests=" 400d ").kept_days == 400


def test_an_unknown_key_is_named_without_its_control_characters(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, '[server]\n"\\u001b[31m' + "x" * 1000 + '" = 1\n')
    assert problem.isprintable()
    assert "server.\\x1b[31mxxx" in problem
    assert "x" * 100 not in problem


def test_a_missing_file_that_was_named_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        load(tmp_path / "none.toml", environ={})


def test_it_is_known_whether_the_file_gave_anything(tmp_path: Path) -> None:
    variables = {"REVERIE_SERVER_PORT": "1"}
    for nothing in ("", "# only this\n", "[server]\n"):
        file = write(tmp_path, nothing)
        assert load(file, environ=variables).file is None
    assert load(write(tmp_path, "[server]\nport = 1"), environ={}).file == file


def test_settings_cannot_be_changed_once_read() -> None:
    with pytest.raises(Exception, match="frozen"):
        Settings().server.port = 1  # type: ignore[misc]


def test_every_key_of_a_plain_section_has_a_variable() -> None:
    assert variable_of("server", "queue_size") == "REVERIE_SERVER_QUEUE_SIZE"


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ('_key = "secret"', "reverie.toml: models[0].backends[0]._key: unknown key"),
        (
            "continues = true",
            "reverie.toml: models[0].backends[0]: continues: a livepeer backend",
        ),
        (
            "[[models]]\nname = 'n'\ntask = 'embed'\nbackends = [{url='http://h',kind='livepeer'}]",
            "reverie.toml: models[1]: task: a livepeer backend",
        ),
    ],
)
def test_a_livepeer_backend_has_no_key_in_the_file_and_continues_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, mistake: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (
        f'[[models]]\nname = "m"\n[[models.backends]]\nurl = "http://h"\nkind = "livepeer"\n{line}'
    )
    write(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load(environ={})
    (problem,) = caught.value.problems
    assert problem.startswith(mistake)
    assert "secret" not in problem


def test_the_models_of_another_file_stand_beside_the_rest_of_this_one(tmp_path: Path) -> None:
    model = ModelSettings(name="other", source="smollm2-135m")
    settings = load(write(tmp_path, "[server]\nport = 1\n"), environ={}, models=[model])
    assert (settings.server.port, settings.models) == (1, (model,))
    with pytest.raises(ConfigurationError, match="models: the models are given by --ai-models"):
        load(write(tmp_path, "models = []"), environ={}, models=[model])


def test_a_list_in_a_variable_is_separated_by_commas(tmp_path: Path) -> None:
    environ = {
        "REVERIE_SERVER_ALLOW_ORIGINS": "https://chat.example.org, app://obsidian.md,",
        "REVERIE_SERVER_TRUSTED_PROXIES": "",
    }
    written = '[server]\ntrusted_proxies = ["127.0.0.1"]\n'
    server = load(write(tmp_path, written), environ=environ).server
    assert server.allow_origins == ("https://chat.example.org", "app://obsidian.md")
    assert server.trusted_proxies == ()
    environ["REVERIE_SERVER_TRUSTED_PROXIES"] = "127.0.0.1,here"
    [problem] = problems(tmp_path, "", **environ)
    assert problem.startswith("environment REVERIE_SERVER_TRUSTED_PROXIES: ")


CLUSTER = '[cluster]\naddress = "10.0.0.1"\n[[models]]\nname = "m"\nsource = "smollm2-135m"\n'


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("engines = 0", "should be a number above 0"),
        ('engines = "3-1"', "the lesser first"),
        ('engines = "many"', "should be a number such as 3"),
        ("gpus = 1", "gpus: needs engines"),
        ("engines = 1\ngpus = 1.5", "gpus: should be a whole number, or a part of one GPU"),
        ("engines = 1\nwarm = false", "warm and idle_unload: are for a model on this machine"),
        ("engines = 1\nidle_unload = 60", "warm and idle_unload: are for a model on this machine"),
    ],
)
def test_a_model_of_a_cluster_that_cannot_be_as_asked_for_is_refused(
    tmp_path: Path, line: str, mistake: str
) -> None:
    [problem] = problems(tmp_path, CLUSTER + line)
    assert "reverie.toml: models[0]" in problem
    assert mistake in problem


def test_a_model_may_have_so_many_engines_in_a_cluster(tmp_path: Path) -> None:
    for written, bounds in (("2", (2, 2)), ('"1-3"', (1, 3)), ('"0-3"', (0, 3)), ('""', None)):
        settings = load(write(tmp_path, f"{CLUSTER}engines = {written}"), environ={})
        assert settings.models[0].engine_bounds == bounds
        assert settings.cluster is not None
        assert settings.cluster.address == "10.0.0.1:6379"


def test_engines_without_a_cluster_are_refused(tmp_path: Path) -> None:
    written = CLUSTER.partition("[[")[2]
    [problem] = problems(tmp_path, f"[[{written}engines = 2")
    assert "engines needs a cluster to run on" in problem
