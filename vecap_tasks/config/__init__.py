"""One validated configuration object for every stage, read from a YAML file.

A field is either part of what is made (it changes the bytes, so it enters the fingerprint) or it only says how
and where the work is done (addresses, paths, workers). The latter are marked `Runtime` and never enter a
fingerprint: moving a dataset or adding workers does not make a new revision.

Strings that name a place may hold `${NAME}` or `${NAME:-default}`; they are kept as written, so that no manifest
records a machine's paths or a secret, and are expanded by `Config.resolve` at the moment of use.
"""

from vecap_tasks.config.clip import ClipConfig, PreprocessWay
from vecap_tasks.config.crawl import (
    CrawlConfig,
    DuplicatesConfig,
    FetchConfig,
    ImageConfig,
    RetryConfig,
    SiteSource,
    Source,
    UrlSource,
    WarcSource,
    WatSource,
    WebdatasetSource,
)
from vecap_tasks.config.evaluate import (
    BootstrapConfig,
    CaptionTable,
    CaptionTars,
    ChampionConfig,
    ClassFolders,
    ClassTable,
    ClassTars,
    EvaluateConfig,
    KarpathySet,
    RetrievalSource,
    Ties,
    TokenSet,
    ZeroShotSource,
)
from vecap_tasks.config.launch import LaunchConfig
from vecap_tasks.config.load import Config, load_config, parse_config, read_yaml
from vecap_tasks.config.mixture import Arm, MixtureConfig, ReadingConfig, TarSource, Text, VersionSource
from vecap_tasks.config.quality import Bound, ClipScore, Drift, Gate, Level, QualityConfig, RowRules, ScoreLimits
from vecap_tasks.config.retention import RetentionConfig
from vecap_tasks.config.rewrite import (
    ModelConfig,
    PriceConfig,
    RewriteConfig,
    ScreenConfig,
    ScreenRule,
    ServerConfig,
)
from vecap_tasks.config.section import Runtime, Section
from vecap_tasks.config.services import DaskConfig, MlflowConfig, TlsConfig
from vecap_tasks.config.train import AssembleConfig, TrainConfig
from vecap_tasks.config.variables import environment, expand, expand_optional

__all__ = [
    "Arm",
    "AssembleConfig",
    "BootstrapConfig",
    "Bound",
    "CaptionTable",
    "CaptionTars",
    "ChampionConfig",
    "ClassFolders",
    "ClassTable",
    "ClassTars",
    "ClipConfig",
    "ClipScore",
    "Config",
    "CrawlConfig",
    "DaskConfig",
    "Drift",
    "DuplicatesConfig",
    "EvaluateConfig",
    "FetchConfig",
    "Gate",
    "ImageConfig",
    "KarpathySet",
    "LaunchConfig",
    "Level",
    "MixtureConfig",
    "MlflowConfig",
    "ModelConfig",
    "PreprocessWay",
    "PriceConfig",
    "QualityConfig",
    "ReadingConfig",
    "RetentionConfig",
    "RetrievalSource",
    "RetryConfig",
    "RewriteConfig",
    "RowRules",
    "Runtime",
    "ScoreLimits",
    "ScreenConfig",
    "ScreenRule",
    "Section",
    "ServerConfig",
    "SiteSource",
    "Source",
    "TarSource",
    "Text",
    "Ties",
    "TlsConfig",
    "TokenSet",
    "TrainConfig",
    "UrlSource",
    "VersionSource",
    "WarcSource",
    "WatSource",
    "WebdatasetSource",
    "ZeroShotSource",
    "environment",
    "expand",
    "expand_optional",
    "load_config",
    "parse_config",
    "read_yaml",
]
