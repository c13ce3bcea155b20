"""One TOML recipe describes a run; here is every key it may hold.

Unknown keys, wrong types and values out of range are refused where they stand, with one line that
names the file, the key, what was received and the nearest valid name.
"""

from tfseq2seq.config.audio import Audio, SpecAugment
from tfseq2seq.config.model import Model, reads_transformer
from tfseq2seq.config.reading import ConfigError, flatten, load_recipe, override, parse_recipe, save_config
from tfseq2seq.config.run import Data, DataSet, Decode, Export, Origin, Run, Tokenizer, Train

__all__ = [
    "Audio", "ConfigError", "Data", "DataSet", "Decode", "Export", "Model", "Origin", "Run", "SpecAugment", "Tokenizer",
    "Train", "flatten", "load_recipe", "override", "parse_recipe", "reads_transformer", "save_config"]
