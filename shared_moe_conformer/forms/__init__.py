"""A released model in other toolkits' forms: sherpa-onnx's, TorchScript, transformers', icefall's and ESPnet's."""
