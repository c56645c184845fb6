// What loader.py looks for in the file before it loads the library. TensorFlow's version comes from the build.
#ifndef GRAFFITI_TENSORFLOW_VERSION
#error "compile with -DGRAFFITI_TENSORFLOW_VERSION=\"x.y.z\" (graffiti/ops/cc/build.py does)"
#endif

extern "C" __attribute__((used, visibility("default"))) const char graffiti_ops_marker[] =
    "graffiti_ops built for tensorflow " GRAFFITI_TENSORFLOW_VERSION ";";
