"""Configs: what config files call, the fields that a config has, and how files are found."""

from jaxvid.config.arguments import parse_arg as parse_arg
from jaxvid.config.published import ARGUMENTS as ARGUMENTS
from jaxvid.config.published import from_row as from_row
from jaxvid.config.published import shrink as shrink
from jaxvid.config.published import views as views
